"""How predictions are made: from which views, in which format, and what a result says of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from classifier.callbacks.prediction_files import check_format
from classifier.callbacks.predictions import PredictionsWriter
from classifier.commands.frozen_features import on_images
from classifier.errors import ConfigError
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.model.classifier import ImageClassifier
from classifier.runs import Result

log = logging.getLogger(__name__)


def check_predicting(settings: EvaluationSettings, model: Any) -> None:
    """Refuse settings that predictions cannot follow, before any work.

    Args:
        settings: The section evaluation.
        model: Of any class.

    Raises:
        ConfigError: a format without its package, or views for a model of the user's own.
    """
    check_format(settings.format)
    if settings.tta is not None and not isinstance(model, ImageClassifier):
        raise ConfigError(
            f"{SECTION}.tta", "needs the steps of classifier.ImageClassifier, and the model is a "
            f"{type(model).__name__}", got=settings.tta, remedy="Write null",
        )  # fmt: skip


@contextmanager
def with_views(kind: str | None, model: Any, data: Any) -> Iterator[None]:
    """Let a model look at several views of each image for a while.

    Args:
        kind: tta of the settings; None is the image alone.
        model: As `check_predicting` let it pass.
        data: Gives images meanwhile, not what a frozen encoder once made of them.
    """
    if kind is None:
        yield
        return
    with on_images(model, data):
        model.views = kind
        try:
            yield
        finally:
            model.views = None


def tell_predictions(writer: PredictionsWriter, result: Result) -> None:
    """Put what was predicted into a run's result, and warn of images that could not be.

    Args:
        writer: When all is written.
        result: Of the run.
    """
    result.predictions = writer.file.name
    result.num_images, result.num_errors = writer.num_rows, len(writer.failed)
    if writer.settings.abstain_below is not None:
        result.num_undecided = writer.num_undecided
    if writer.num_not_numbers:
        log.warning(
            "the probabilities of %d of %d images are not numbers: the model has diverged",
            writer.num_not_numbers, writer.num_rows,
        )  # fmt: skip
    if writer.failed:
        log.warning(
            "%d of %d images could not be decoded: %s; the column error says why",
            len(writer.failed), writer.num_rows, ", ".join(writer.failed[:5]),
        )  # fmt: skip
