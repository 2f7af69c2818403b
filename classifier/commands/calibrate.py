"""A temperature and thresholds, fitted on the validation images and kept in a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.checkpoint_writing import WholeFileIO
from classifier.checkpoints import load_checkpoint
from classifier.errors import ConfigError, RunError
from classifier.evaluation.calibration import (
    TunedThresholds,
    at_temperature,
    fit_temperature,
    log_loss,
    tune_thresholds,
)
from classifier.evaluation.metrics import calibration_error
from classifier.evaluation.results import MULTILABEL, Predictions
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.model.answers import Calibration
from classifier.model.classifier import ImageClassifier
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.model.per_class import shown_weights
from classifier.runs import BEST, SOUP

log = logging.getLogger(__name__)

_FEW = 10  # images: what is chosen on fewer is mostly chance
_MOST_NAMED = 10


def check_calibration(
    settings: EvaluationSettings, data: Any, model: Any, arguments: Mapping[str, Any]
) -> None:
    """Refuse what could not be fitted after the training, or would have no effect.

    Args:
        settings: The section `evaluation`.
        data: Set up.
        model: Built.
        arguments: Of lightning.Trainer, as configured.

    Raises:
        ConfigError: at the key that asks for it.
    """
    for name in ("calibrate", "tune_thresholds"):
        asked = getattr(settings, name)
        if asked is None:
            continue
        problem, remedy = _problem(data, model, arguments)
        if problem is None and name == "tune_thresholds":
            problem, remedy = _no_threshold(settings, model)
        if problem is not None:
            raise ConfigError(f"{SECTION}.{name}", problem, got=asked, remedy=remedy)


def _problem(data: Any, model: Any, arguments: Mapping[str, Any]) -> tuple[str | None, str]:
    if not isinstance(model, ImageClassifier):
        return (
            f"is for classifier.ImageClassifier, and the model is a {type(model).__name__}",
            "Write null",
        )
    if arguments.get("enable_checkpointing") is False:
        return "there is no checkpoint to keep it in", (
            "Write null, or trainer.enable_checkpointing: true"
        )
    if arguments.get("limit_val_batches") == 0 or not _has_validation(data):
        return "there are no validation images to fit it on", "Write null, or add validation images"
    if not hasattr(data, "stage"):
        return (
            f"{type(data).__name__} does not name its images",
            "Write null, or give it stage(name), as classifier.ImageDataModule has it",
        )
    return None, ""


def _no_threshold(settings: EvaluationSettings, model: ImageClassifier) -> tuple[str | None, str]:
    names = model.class_names or []
    if model.task == MULTILABEL:
        return None, ""
    if len(names) != 2:
        return (
            f"has no effect: with one label per image and {len(names)} classes the likeliest "
            "class wins",
            "Write null",
        )
    return None, ""


def _has_validation(data: Any) -> bool:
    return bool(getattr(data, "has_validation", lambda: True)())


def settle_calibration(settings: EvaluationSettings, model: Any) -> None:
    """Let a checkpoint be used as its training calibrated it, or without what is null today.

    Args:
        settings: The section `evaluation`; that of the training where today's command says nothing.
        model: With a checkpoint's weights.
    """
    if not isinstance(model, ImageClassifier):
        return
    if settings.calibrate is None:
        model.calibration = replace(model.calibration, temperature=1.0)
    if settings.tune_thresholds is None:
        model.calibration = replace(model.calibration, thresholds=None, positive=None)
    words = model.described_calibration()
    if words:
        log.info("by the validation images of the training: %s", words)
    elif settings.calibrate is not None or settings.tune_thresholds is not None:
        log.warning(
            "this checkpoint has no temperature and no thresholds: they are fitted at the end of a "
            "training, for the checkpoint that its folder stands for"
        )


def forget_calibration(folder: Path) -> None:
    """Take out of a resumed training's checkpoints what the training before has fitted.

    Args:
        folder: Of the checkpoints, those that it took over among them.
    """
    for name in (SOUP, BEST):
        file = folder / name
        if not file.is_file():
            continue
        checkpoint = load_checkpoint(file)
        entry = checkpoint.get(CHECKPOINT_KEY, {})
        if Calibration.read(entry.get("calibration")) != Calibration():
            entry["calibration"] = Calibration().plain()
            WholeFileIO().save_checkpoint(checkpoint, file)
            log.info("%s is of the training before: its calibration is left out", name)


def calibrate(
    checkpoint_file: Path, predictions: Predictions, settings: EvaluationSettings
) -> dict[str, Any]:
    """Fit what the settings ask for, and keep it in a checkpoint.

    The file is written anew: another name of the old one, as that of a ModelCheckpoint of the
    user's own, stays what it was.

    Args:
        checkpoint_file: Of an ImageClassifier.
        predictions: Of the validation images by the checkpoint's weights, at temperature 1 also
            where a resumed run has inherited a calibrated file, and of one view of each image.
        settings: The section `evaluation`.

    Returns:
        For the report, as plain data: num_images; where calibrate is set temperature, and
        ece_before, ece_after, log_loss_before, log_loss_after; where tune_thresholds is set
        tuned_for, thresholds by class name (of two classes that of the positive one alone), and
        score_before, score_after (None where no class was settled). Empty when nothing is asked.

    Raises:
        RunError: there are no predictions, or some that are no numbers.
    """
    if settings.calibrate is None and settings.tune_thresholds is None:
        return {}
    if not len(predictions) or not np.isfinite(predictions.probabilities).all():
        raise RunError(
            "nothing can be fitted on the validation images: "
            + ("a probability is no number" if len(predictions) else "none could be decoded")
        )
    checkpoint = load_checkpoint(checkpoint_file)
    entry = checkpoint[CHECKPOINT_KEY]
    chances = predictions.probabilities
    facts: dict[str, Any] = {"num_images": len(predictions)}
    found = Calibration()
    if settings.calibrate is not None:
        facts |= _fit_temperature(chances, predictions)
        found = replace(found, temperature=facts["temperature"])
        chances = at_temperature(chances, found.temperature, predictions.task)
    if settings.tune_thresholds is not None:
        positive = predictions.positive(settings.positive_class)
        tuned = tune_thresholds(
            chances, predictions.targets, settings.tune_thresholds,
            defaults=entry.get("thresholds"), positive=positive,
        )  # fmt: skip
        facts |= _told(tuned, predictions.class_names, positive, settings.tune_thresholds)
        if (
            positive is None or tuned.before != tuned.after
        ):  # else the likeliest class wins, as ever
            found = replace(found, thresholds=tuned.values, positive=positive)
    entry["calibration"] = found.plain()
    WholeFileIO().save_checkpoint(checkpoint, checkpoint_file)
    return facts


def _fit_temperature(chances: NDArray[np.float64], predictions: Predictions) -> dict[str, Any]:
    """The temperature, and what it brings."""
    targets, task = predictions.targets, predictions.task
    temperature = fit_temperature(chances, targets, task)
    facts: dict[str, Any] = {"temperature": temperature}
    states = {"before": chances, "after": at_temperature(chances, temperature, task)}
    for when, probabilities in states.items():
        facts[f"ece_{when}"] = calibration_error(replace(predictions, probabilities=probabilities))
    for when, probabilities in states.items():
        facts[f"log_loss_{when}"] = log_loss(probabilities, targets, task)
    log.info(
        "temperature %.4g, on %d validation images: log loss %.4f -> %.4f, "
        "calibration error %.4f -> %.4f",
        temperature, len(predictions), facts["log_loss_before"], facts["log_loss_after"],
        facts["ece_before"], facts["ece_after"],
    )  # fmt: skip
    return facts


def _told(
    tuned: TunedThresholds, class_names: Sequence[str], positive: int | None, metric: str
) -> dict[str, Any]:
    """What was tuned as facts, and in the log."""
    names = list(class_names) if positive is None else [class_names[positive]]
    if tuned.before is not None:
        log.info(
            "thresholds for %s on the validation images (%.4f -> %.4f): %s", metric, tuned.before,
            tuned.after, shown_weights(torch.tensor(tuned.values), names),
        )  # fmt: skip
    unsettled = [names[index] for index in tuned.unsettled]
    if unsettled:
        log.warning(
            "on all validation images or on none, so that the threshold is kept: %s",
            _some(unsettled),
        )
    few = [
        f"{name} ({count})"
        for name, count in zip(names, tuned.rarest, strict=True)
        if count < _FEW and name not in unsettled
    ]
    if few:
        log.warning("thresholds that rest on fewer than %d images: %s", _FEW, _some(few))
    return {
        "tuned_for": metric, "thresholds": dict(zip(names, tuned.values, strict=True)),
        "score_before": tuned.before, "score_after": tuned.after,
    }  # fmt: skip


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
