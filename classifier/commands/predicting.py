"""How predictions are made: from which views, and in which format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from classifier.callbacks.prediction_files import check_format
from classifier.commands.frozen_features import on_images
from classifier.errors import ConfigError
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.model.classifier import ImageClassifier


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
