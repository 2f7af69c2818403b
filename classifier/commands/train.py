"""Training: fit, also on several devices, and what is done with its checkpoints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import lightning as L

from classifier.callbacks.averaging import tell_late_start
from classifier.callbacks.finders import BATCH_SIZE
from classifier.callbacks.loggers import default_loggers
from classifier.callbacks.recorder import RunRecorder
from classifier.callbacks.soup import GreedySoup
from classifier.checkpoints import keep_last
from classifier.commands.after_training import (
    calibrate_after_training,
    report_on_training,
    stages_to_judge,
)
from classifier.commands.batch_size import find_batch_size
from classifier.commands.frozen_features import on_images, run_frozen_part_once
from classifier.commands.job import Job
from classifier.commands.out_of_memory import AUTO_BATCH_SIZE
from classifier.commands.prepare import Prepared, prepare
from classifier.commands.speed import settle_speed
from classifier.commands.trainer import attach, attach_checkpoints, collect
from classifier.errors import Interrupted, RunError
from classifier.rank_launcher import is_lost_peer, launcher_of
from classifier.ranks import take_errors
from classifier.runs import Result, Run
from classifier.terminal import show

log = logging.getLogger(__name__)


def train(job: Job) -> Result:
    """Train, or go on with a training, in a run folder of its own.

    Args:
        job: Of the mode train.

    Raises:
        ConfigError: something is wrong with the configuration or the data; no folder was made.
        RunError: the training failed.
    """
    prepared = prepare(job)
    model, data = prepared.model, prepared.data
    stages = stages_to_judge(job, prepared)
    run_frozen_part_once(model, data, prepared.trainer)
    settle_speed(job, prepared)
    trainer = prepared.trainer
    tested = [stage for stage in stages if stage == "test"]
    run = job.create_run(first=trainer.is_global_zero, trainer=trainer, data=data, also=tested)
    resumed = job.resumed
    source = job.checkpoint_file if resumed is not None else None
    history = source.parent.parent / "metrics.csv" if source is not None else None
    if history is not None and not history.is_file():
        log.warning("metrics.csv of the run before was not found: its rows are missing")
    step = int(resumed["global_step"]) if resumed is not None else 0
    recorder = RunRecorder(run, job.cli.plain(), source, step)
    attach(trainer, run, recorder, history)
    if not prepared.arguments["fast_dev_run"]:
        before = None if source is None else source.parent.parent
        given = prepared.arguments.get("logger")
        trainer.loggers = [*trainer.loggers, *default_loggers(given, run, before, step)]
    keeps = prepared.arguments.get("enable_checkpointing") is not False
    if keeps and not prepared.arguments["fast_dev_run"]:
        attach_checkpoints(trainer, run)

    def work() -> None:
        if getattr(data, "auto_batch_size", False):
            with on_images(model, data):
                _find_batch_size(job, prepared, run, recorder)
        fit(trainer, model, data, run, recorder)
        calibrate_after_training(job, prepared, run, recorder)
        report_on_training(job, prepared, run, recorder, stages)

    return job.carry_out(run, data, work)


def _find_batch_size(job: Job, prepared: Prepared, run: Run, recorder: RunRecorder) -> None:
    """Find it, and write it where this run is described, so that it can be repeated."""
    data = prepared.data
    data.batch_size = find_batch_size(prepared.arguments, prepared.model, data, run)
    job.cli.set_value(BATCH_SIZE, data.batch_size)
    job.cli.set_value(AUTO_BATCH_SIZE, False)
    run.write_config(job.cli.dump())
    recorder.config = job.cli.plain()


def fit(
    trainer: Any,
    model: L.LightningModule,
    data: L.LightningDataModule,
    run: Run,
    recorder: RunRecorder,
) -> None:
    """Train, and fill in the run's result.

    Args:
        trainer: Attached to the run.
        model: Built.
        data: Set up.
        run: The run folder.
        recorder: Its `resumed_from` is where the training goes on.
    """
    source = recorder.resumed_from
    if tell_late_start(trainer.callbacks) and trainer.num_devices == 1:
        # Lightning's averages of weights stay where the weights are before the training.
        model.to(trainer.strategy.root_device)
    try:
        with _ending_together(trainer, run, recorder), redirect_stdout(sys.stderr):
            trainer.fit(
                model, datamodule=data,
                ckpt_path=None if source is None else str(source), weights_only=True,
            )  # fmt: skip
        if source is not None and run.writes and run.checkpoints.is_dir():
            keep_last(source, run.checkpoints)
    finally:
        collect(trainer, run)
    for soup in [c for c in trainer.callbacks if isinstance(c, GreedySoup)]:
        with recorder.obeying_signals(), redirect_stdout(sys.stderr):
            run.result.soup = soup.cook(trainer, model, data, run.checkpoints, recorder)
        facts = run.result.soup or {}
        if facts.get("checkpoint"):
            run.result.best_checkpoint, run.result.best_score = facts["checkpoint"], facts["score"]
            run.result.best_metrics = {**run.result.best_metrics, **facts["metrics"]}


@contextmanager
def _ending_together(trainer: Any, run: Run, recorder: RunRecorder) -> Iterator[None]:
    """Obey signals, and see to it that no process of the training outlives the others.

    Raises:
        RunError: another process failed; in its words.
    """
    launcher = launcher_of(trainer)
    if launcher is None:
        with recorder.obeying_signals():
            yield
        return
    launcher.on_lost = lambda: _end_alone(run, recorder.signum)
    try:
        with recorder.obeying_signals():
            yield
    except BaseException as error:
        launcher.end(failed=True)
        words = take_errors(run.folder)
        if isinstance(error, Exception) and is_lost_peer(error):
            if recorder.signum is not None:
                raise Interrupted(recorder.signum) from error
            raise RunError(words or "another process of the training was killed") from error
        raise
    launcher.end(failed=False)


def _end_alone(run: Run, signum: int | None) -> None:
    """End a process that waits, in a library, for one that is gone."""
    words = take_errors(run.folder) or "another process of the training was killed"
    run.result.status = "failed" if signum is None else "interrupted"
    run.result.error = words if signum is None else "ended by a signal"
    run.write_result()
    log.error("%s", words)
    show(run.folder.as_posix())
    os._exit(1 if signum is None else 128 + signum)
