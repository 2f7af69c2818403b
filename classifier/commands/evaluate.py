"""Validation, test and prediction with a checkpoint."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import lightning as L

from classifier.callbacks.metrics import task_of
from classifier.callbacks.predictions import PredictionsWriter
from classifier.callbacks.recorder import RunRecorder
from classifier.commands.calibrate import settle_calibration
from classifier.commands.job import Job
from classifier.commands.predicting import check_predicting, with_views
from classifier.commands.prepare import check_metrics
from classifier.commands.report import can_be_judged, report_on_evaluation
from classifier.commands.trainer import as_list, attach, build_trainer, collect
from classifier.commands.weights import restore
from classifier.data.folders import ImagePathsDataset
from classifier.runs import Result, Run


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
    check_predicting(job.cli.evaluation, model)
    trainer = build_trainer(arguments, job.mode, None)
    restore(model, data, job.checkpoint)
    settle_calibration(job.cli.evaluation, model)
    if can_be_judged(model, data):
        job.cli.evaluation.check_positive_class(task_of(model), model.class_names)  # type: ignore[arg-type]
    check_metrics(as_list(arguments.get("callbacks")), model)
    data.setup(job.mode)
    run = job.create_run(trainer=trainer, data=data)
    recorder = RunRecorder(run, job.cli.plain())
    attach(trainer, run, recorder, None)
    return job.carry_out(run, data, lambda: _evaluate(job, trainer, model, data, run, recorder))


def _evaluate(
    job: Job,
    trainer: Any,
    model: L.LightningModule,
    data: L.LightningDataModule,
    run: Run,
    recorder: RunRecorder,
) -> None:
    """Validate, test or predict, as the run's mode says, and fill in its result."""
    mode, settings = job.mode, job.cli.evaluation
    writer = PredictionsWriter(run.folder, settings)
    writes = mode in ("test", "predict") or can_be_judged(model, data)
    if writes:
        trainer.callbacks.append(writer)
    views = with_views(settings.tta, model, data)
    with views, recorder.obeying_signals(), redirect_stdout(sys.stderr):
        if mode == "validate":
            trainer.validate(model, datamodule=data, verbose=False)
        elif mode == "test":
            trainer.test(model, datamodule=data, verbose=False)
        else:
            trainer.predict(model, datamodule=data, return_predictions=False)
    if writes:
        writer.table.tell(run.result)
    collect(trainer, run)
    if mode != "predict" and settings.report and can_be_judged(model, data):
        report_on_evaluation(job, model, data, run, writer.table.file)
