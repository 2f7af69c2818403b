"""Validation, test and prediction with a checkpoint."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from typing import Any

import lightning as L

from classifier.callbacks.predictions import PredictionsWriter
from classifier.callbacks.recorder import RunRecorder
from classifier.commands.job import Job
from classifier.commands.prepare import check_metrics
from classifier.commands.trainer import as_list, attach, build_trainer, collect
from classifier.commands.weights import restore
from classifier.data.folders import ImagePathsDataset
from classifier.runs import Result, Run

log = logging.getLogger(__name__)


def evaluate(job: Job) -> Result:
    """Validate, test or predict with a checkpoint, in a run folder of its own.

    Args:
        job: Of the mode validate, test or predict; it has a checkpoint.

    Raises:
        ConfigError: something is wrong with the configuration, the checkpoint or the data.
        RunError: the evaluation failed.
    """
    assert job.checkpoint is not None
    model, data, arguments = job.cli.build()
    if job.command.paths:
        data.dataset_classes["predict"] = ImagePathsDataset(job.command.paths)  # type: ignore[attr-defined]
    trainer = build_trainer(arguments, job.mode, None)
    restore(model, data, job.checkpoint)
    check_metrics(as_list(arguments.get("callbacks")), model)
    data.setup(job.mode)
    run = job.create_run()
    recorder = RunRecorder(run, job.cli.plain())
    attach(trainer, run, recorder, None)
    return job.carry_out(run, data, lambda: _evaluate(trainer, model, data, run, recorder))


def _evaluate(
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
