"""What follows a training: its checkpoint calibrated, evaluated, and reported on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from classifier.callbacks.loggers import log_figures
from classifier.callbacks.metrics import MetricsLogger, task_of
from classifier.callbacks.prediction_files import TABLES
from classifier.callbacks.predictions import PredictionsWriter
from classifier.callbacks.recorder import RunRecorder
from classifier.checkpoints import load_checkpoint
from classifier.commands.calibrate import calibrate, forget_calibration
from classifier.commands.job import Job
from classifier.commands.predicting import check_predicting, with_views
from classifier.commands.prepare import Prepared
from classifier.commands.report import can_be_judged, judge, report_on, write_model_card
from classifier.commands.trainer import build_trainer
from classifier.errors import ConfigError, RunError
from classifier.evaluation.reading import read_predictions
from classifier.evaluation.report import FOLDER
from classifier.evaluation.results import Evaluation
from classifier.evaluation.settings import EvaluationSettings
from classifier.model.answers import Calibration
from classifier.model.classifier import ImageClassifier
from classifier.runs import Run, find_checkpoint, trial_folder

# Of a training's trainer, what the evaluation of its checkpoint keeps.
_KEPT = (
    "accelerator", "precision", "limit_val_batches", "limit_test_batches", "plugins",
    "enable_progress_bar", "deterministic", "benchmark",
)  # fmt: skip


def stages_to_judge(job: Job, prepared: Prepared) -> list[str]:
    """The stages that a training's checkpoint will be evaluated on; none without a report.

    Args:
        job: Of the mode train.
        prepared: Its objects.

    Raises:
        ConfigError: there is something wrong with the test images, or a setting of the predictions
            cannot be followed.
    """
    data, arguments = prepared.data, prepared.arguments
    keeps = arguments.get("enable_checkpointing") is not False and not arguments["fast_dev_run"]
    wanted = job.cli.evaluation.report and keeps and trial_folder() is None
    if not wanted or not can_be_judged(prepared.model, data):
        return []
    check_predicting(job.cli.evaluation, prepared.model)
    # A data module of the user's own need not say what it has; --val and --test report on it.
    stages = ["validation"] if hasattr(data, "has_validation") and data.has_validation() else []
    if hasattr(data, "has_test") and data.has_test():
        data.setup("test")  # what is wrong with it is told before the training
        stages.append("test")
    return stages


def report_on_training(
    job: Job, prepared: Prepared, run: Run, recorder: RunRecorder, stages: Sequence[str]
) -> None:
    """Evaluate the checkpoint that the run folder stands for, and write report/.

    predictions.csv and report/ are those of the last stage; those of the validation before a test
    lie in report/validation/.

    Args:
        job: Of the mode train.
        prepared: Its objects, after the training.
        run: The run folder.
        recorder: Obeys signals.
        stages: As `stages_to_judge` gave them.
    """
    if not stages or not run.writes:
        return
    _leave_the_others()
    checkpoint = find_checkpoint(str(run.folder))
    content = load_checkpoint(checkpoint)
    prepared.model.load_state_dict(content["state_dict"])
    if isinstance(prepared.model, ImageClassifier):
        prepared.model.take_calibration(content)
    judged: list[Evaluation] = []
    try:
        for stage in stages:
            folder = run.folder if stage == stages[-1] else run.folder / FOLDER / stage
            folder.mkdir(parents=True, exist_ok=True)
            writer = PredictionsWriter(folder, job.cli.evaluation)
            _predict(prepared, stage, writer, recorder)
            evaluation = judge(
                job, prepared.model, stage, writer.table.file, run.result.calibration
            )
            judged.insert(0, evaluation)
            report_folder = folder / FOLDER if folder == run.folder else folder
            report_on(job, prepared.data, run, report_folder, judged, checkpoint)
    except (ConfigError, RunError, OSError) as error:
        raise RunError(
            f"the training is complete, and {checkpoint} holds it; its report is not: {error} "
            "(ckpt_path: last goes on with it)"
        ) from error
    run.result.predictions = TABLES[job.cli.evaluation.format]
    write_model_card(job, prepared.data, run, judged, checkpoint)
    pictures = {file.stem: file for file in sorted((run.folder / FOLDER).glob("*.png"))}
    log_figures(prepared.trainer.loggers, pictures, prepared.trainer.global_step)


def calibrate_after_training(job: Job, prepared: Prepared, run: Run, recorder: RunRecorder) -> None:
    """Fit what is asked for on the validation images, before anything is judged by it.

    It stays in the checkpoint that the run folder stands for.

    Args:
        job: Of the mode train.
        prepared: Its objects, after the training.
        run: The run folder.
        recorder: Obeys signals.
    """
    settings = job.cli.evaluation
    asked = settings.calibrate is not None or settings.tune_thresholds is not None
    if prepared.arguments["fast_dev_run"] or not run.writes:
        return
    if not asked:
        if recorder.resumed_from is not None and isinstance(prepared.model, ImageClassifier):
            forget_calibration(run.checkpoints)
        return
    _leave_the_others()
    checkpoint, model = find_checkpoint(str(run.folder)), prepared.model
    model.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    model.calibration = Calibration()
    folder = run.folder / ".uncalibrated"
    folder.mkdir()
    try:
        writer = PredictionsWriter(folder, EvaluationSettings())  # of each image as it is
        _predict(prepared, "validation", writer, recorder)
        predictions = read_predictions(writer.table.file, task_of(model), model.class_names)
        run.result.calibration = calibrate(checkpoint, predictions, settings)
    except (RunError, OSError) as error:
        raise RunError(
            f"the training is complete, and {checkpoint} holds it, uncalibrated: {error} "
            "(ckpt_path: last goes on with it)"
        ) from error
    finally:
        shutil.rmtree(folder)


def _leave_the_others() -> None:
    """End the talk between the processes of a training: one of them evaluates, on its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _predict(
    prepared: Prepared, stage: str, writer: PredictionsWriter, recorder: RunRecorder
) -> None:
    """Send a stage's images through the model, once, and write its table of predictions."""
    kept = {name: prepared.arguments[name] for name in _KEPT if name in prepared.arguments}
    metrics = [c for c in prepared.callbacks if isinstance(c, MetricsLogger)]
    callbacks: list[Callback] = [*metrics, recorder, writer]
    mode = "validate" if stage == "validation" else "test"
    trainer: Any = build_trainer({**kept, "devices": 1, "callbacks": callbacks}, mode, None)
    views = with_views(writer.table.settings.tta, prepared.model, prepared.data)
    with views, recorder.obeying_signals(), redirect_stdout(sys.stderr):
        getattr(trainer, mode)(prepared.model, datamodule=prepared.data, verbose=False)
