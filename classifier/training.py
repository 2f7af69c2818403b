"""The trainer of a run, and the runs themselves: fit, evaluate, predict."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from classifier.callbacks.averaging import tell_late_start
from classifier.callbacks.finders import FINDERS, FinderRecord
from classifier.callbacks.metrics import MetricsLogger
from classifier.callbacks.predictions import PredictionsWriter
from classifier.callbacks.recorder import BestLink, BestMetrics, EpochLine, RunRecorder
from classifier.callbacks.soup import GreedySoup
from classifier.callbacks.table import MetricsTable
from classifier.checkpoints import WholeFileIO
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.rank_launcher import is_lost_peer, launcher_of, take_over_launching
from classifier.ranks import settle, take_words
from classifier.runs import BEST, LAST, Run
from classifier.terminal import show

log = logging.getLogger(__name__)

REFRESH_RATE = 20  # batches between two draws of the progress bar


def build_trainer(
    arguments: Mapping[str, Any], mode: str, monitor: tuple[str, str] | None
) -> L.Trainer:
    """The trainer of a configuration, with the defaults that the user did not replace.

    Args:
        arguments: Of lightning.Trainer, callbacks instantiated.
        mode: train, validate, test, predict or lr_find.
        monitor: Metric and mode by which the best checkpoint is chosen by default; None without
            validation data.

    Raises:
        ConfigError: the trainer refuses its arguments.
    """
    arguments = dict(arguments)
    loggers = arguments.pop("logger", None)
    callbacks = as_list(arguments.pop("callbacks", None))
    plugins = as_list(arguments.pop("plugins", None))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFileIO())
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        if sys.stderr.isatty() and arguments.get("enable_progress_bar") is not False:
            callbacks.append(TQDMProgressBar(refresh_rate=REFRESH_RATE))
        else:
            arguments["enable_progress_bar"] = False
    if arguments.get("enable_model_summary") is None:
        arguments["enable_model_summary"] = False  # the log says what is trained, in one line
    if mode != "train":
        arguments["devices"] = _one_device(arguments.get("devices", "auto"))
    callbacks = _with_defaults(callbacks, mode, monitor, arguments)
    try:
        trainer = L.Trainer(**arguments, callbacks=callbacks, plugins=plugins, logger=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError("trainer", reason) from error
    take_over_launching(trainer)
    settle(trainer.global_rank)
    given = loggers if isinstance(loggers, list) else [loggers]
    trainer.loggers = [item for item in given if isinstance(item, L.pytorch.loggers.Logger)]
    log.info(
        "precision %s on %d x %s",
        trainer.precision, trainer.num_devices, trainer.strategy.root_device.type,
    )  # fmt: skip
    return trainer


def as_list(value: Any) -> list[Any]:
    """What Lightning takes as one thing, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _one_device(devices: Any) -> Any:
    """Evaluation runs on one device: padding for several would count images twice.

    Raises:
        ConfigError: the user asks for several.
    """
    if devices == "auto":
        return 1
    if devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1):
        return devices
    raise ConfigError(
        "trainer.devices", "validation, test, prediction and lr_find run on one device",
        got=devices, remedy="Write 1",
    )  # fmt: skip


def _with_defaults(
    callbacks: list[Callback], mode: str, monitor: tuple[str, str] | None, arguments: dict[str, Any]
) -> list[Callback]:
    if not any(isinstance(callback, MetricsLogger) for callback in callbacks):
        callbacks.append(MetricsLogger())
    # First, so that EarlyStopping and schedulers see this epoch's values.
    callbacks.sort(key=lambda callback: not isinstance(callback, MetricsLogger))
    if mode != "train":
        return [c for c in callbacks if not isinstance(c, Checkpoint | EarlyStopping)]
    if arguments.get("enable_checkpointing") is False or arguments.get("fast_dev_run"):
        return [c for c in callbacks if not isinstance(c, Checkpoint)]
    if monitor is not None and not any(
        isinstance(c, ModelCheckpoint) and c.monitor for c in callbacks
    ):
        callbacks.append(ModelCheckpoint(monitor=monitor[0], mode=monitor[1], save_top_k=1))
    return callbacks


def attach(trainer: Any, run: Run, recorder: RunRecorder, history: Path | None) -> None:
    """Let a trainer write into a run folder.

    Args:
        trainer: As `build_trainer` made it.
        run: The folder.
        recorder: Keeps configuration and random state; obeys signals.
        history: metrics.csv of the run that is resumed.
    """
    # After the metrics: what it saves on a signal then counts the batch just done.
    trainer.callbacks.extend([recorder, EpochLine()])
    if any(isinstance(callback, FINDERS) for callback in trainer.callbacks):
        trainer.callbacks.append(FinderRecord(recorder))
    if trainer.fast_dev_run:
        return
    table = MetricsTable(run.folder, history if run.writes else None, recorder.resumed_step)
    trainer.loggers = [*trainer.loggers, table]


def attach_checkpoints(trainer: Any, run: Run) -> None:
    """Let a training keep its checkpoints in the run folder.

    Args:
        trainer: As `build_trainer` made it.
        run: The folder.
    """
    savers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
    last = _last_saver(run.checkpoints)
    main = next(saver for saver in [*savers, last] if saver.monitor or saver is last)
    for saver in savers:
        _place(saver, run.checkpoints, is_main=saver is main)
    # Before `last`, whose checkpoint holds what it remembers.
    trainer.callbacks.extend([BestMetrics(main), last, BestLink(main, run.checkpoints)])


def _place(saver: ModelCheckpoint, folder: Path, is_main: bool) -> None:
    """Give a checkpoint callback what the user left open: its folder, and best.ckpt as name."""
    if saver.dirpath is None:
        saver.dirpath = str(folder.resolve())
        saver.save_last = None  # last.ckpt is written by a callback of its own
        if is_main and saver.filename is None and saver.save_top_k == 1:
            saver.filename = Path(BEST).stem
            saver._enable_version_counter = False


def _last_saver(folder: Path) -> ModelCheckpoint:
    """Writes last.ckpt after every epoch. Lightning's save_last does so only with a new best."""
    return ModelCheckpoint(
        dirpath=folder.resolve(),
        filename=Path(LAST).stem,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )


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
        words = take_words(run.folder)
        if isinstance(error, Exception) and is_lost_peer(error):
            if recorder.signum is not None:
                raise Interrupted(recorder.signum) from error
            raise RunError(words or "another process of the training was killed") from error
        raise
    launcher.end(failed=False)


def _end_alone(run: Run, signum: int | None) -> None:
    """End a process that waits, in a library, for one that is gone."""
    words = take_words(run.folder) or "another process of the training was killed"
    run.result.status = "failed" if signum is None else "interrupted"
    run.result.error = words if signum is None else "ended by a signal"
    run.write_result()
    log.error("%s", words)
    show(run.folder.as_posix())
    os._exit(1 if signum is None else 128 + signum)


def evaluate(
    trainer: Any,
    model: L.LightningModule,
    data: L.LightningDataModule,
    run: Run,
    recorder: RunRecorder,
) -> None:
    """Validate, test or predict, as the run's mode says, and fill in its result."""
    mode = run.result.mode
    writer = PredictionsWriter(run.folder / "predictions.csv")
    if mode in ("test", "predict"):
        trainer.callbacks.append(writer)
    with recorder.obeying_signals(), redirect_stdout(sys.stderr):
        if mode == "validate":
            trainer.validate(model, datamodule=data, verbose=False)
        elif mode == "test":
            trainer.test(model, datamodule=data, verbose=False)
        else:
            trainer.predict(model, datamodule=data, return_predictions=False)
    if mode in ("test", "predict"):
        run.result.predictions = writer.file.name
        run.result.num_images, run.result.num_errors = writer.num_rows, len(writer.failed)
        if writer.failed:
            log.warning(
                "%d of %d images could not be decoded: %s; the column error says why",
                len(writer.failed), writer.num_rows, ", ".join(writer.failed[:5]),
            )  # fmt: skip
    collect(trainer, run)


def collect(trainer: Any, run: Run) -> None:
    """Copy what the trainer knows into the run's result."""
    result = run.result
    result.precision = str(trainer.precision)
    result.metrics = {
        name: float(value)
        for name, value in sorted(trainer.callback_metrics.items())
        if not name.endswith("_step")
    }
    if result.mode != "train":
        return
    for callback in trainer.callbacks:
        if isinstance(callback, BestMetrics):
            result.best_metrics = callback.metrics
    result.num_steps = trainer.global_step
    result.num_epochs = trainer.fit_loop.epoch_progress.current.completed
    for saver in trainer.callbacks:
        if (
            isinstance(saver, ModelCheckpoint)
            and saver.monitor
            and saver.best_model_score is not None
        ):
            result.monitor = saver.monitor
            result.best_score = float(saver.best_model_score)
            break
    for name, field in ((BEST, "best_checkpoint"), (LAST, "last_checkpoint")):
        file = run.checkpoints / name
        if file.is_file():
            setattr(result, field, file.relative_to(run.folder).as_posix())
