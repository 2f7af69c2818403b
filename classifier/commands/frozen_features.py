"""A frozen encoder runs once: from here on the data module gives features in place of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor

from classifier.callbacks.recorder import RunRecorder
from classifier.data.datamodule import ImageDataModule
from classifier.data.datasets import ImageDataset
from classifier.errors import ConfigError
from classifier.model.classifier import ImageClassifier
from classifier.model.prefix import FrozenPrefix

log = logging.getLogger(__name__)

_VIEWS = "data.init_args.feature_views"


class FrozenPart:
    """The frozen part of a model, as what computes features.

    Args:
        model: With a prefix.
    """

    def __init__(self, model: ImageClassifier) -> None:
        self.model = model

    def digest(self) -> str:
        """Equal where the features of equal images are, but for rounding."""
        assert self.model.prefix is not None
        trainer = self.model._trainer
        precision = "32-true" if trainer is None else trainer.precision
        return f"{self.model.prefix.digest()} {precision} {self.model.device.type}"

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, ...) on the CPU, in the precision of the training."""
        trainer = self.model._trainer
        context = nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
        for callback in () if trainer is None else trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunRecorder):
                callback.end_if_asked()
        with torch.no_grad(), context:
            return self.model.encode(images.to(self.model.device)).cpu()


def run_frozen_part_once(
    model: L.LightningModule, data: L.LightningDataModule, trainer: L.Trainer
) -> None:
    """Let the data module keep features, where that gives the same training.

    Args:
        model: Built; in the mode in which it is trained.
        data: Set up.
        trainer: Of the training.

    Raises:
        ConfigError: feature_views where there is nothing to keep.
    """
    if not (isinstance(model, ImageClassifier) and isinstance(data, ImageDataModule)):
        return
    model.prefix = data.encoder = None
    check_feature_views(model, data, trainer)
    if _why_not(model, data, trainer) is not None:
        return
    model.prefix = _prefix(model, data)
    if model.prefix is not None:
        data.encoder = FrozenPart(model)
        log.info("the frozen layers up to %s run once for each image", model.prefix.cut)
    elif data.feature_views is not None:
        raise _no_features(data, "no frozen part can be cut off")


def check_feature_views(model: Any, data: Any, trainer: L.Trainer) -> None:
    """Refuse feature_views where there is nothing to keep. Looks at no image.

    Args:
        model: Built.
        data: Set up.
        trainer: Of the training.

    Raises:
        ConfigError: says why.
    """
    if getattr(data, "feature_views", None) is None or not isinstance(model, ImageClassifier):
        return
    reason = _why_not(model, data, trainer)
    if reason is not None:
        raise _no_features(data, reason)


def _no_features(data: ImageDataModule, reason: str) -> ConfigError:
    return ConfigError(
        _VIEWS, f"there are no features to keep: {reason}", got=data.feature_views,
        remedy="Write null, or model.init_args.freeze_encoder: true",
    )  # fmt: skip


@contextmanager
def on_images(model: Any, data: Any) -> Iterator[None]:
    """Have images for a while, as a search for what fits into memory needs them.

    Args:
        model: Of the training.
        data: Of the training.
    """
    kept = getattr(model, "prefix", None), getattr(data, "encoder", None)
    if kept[1] is None:
        yield
        return
    model.prefix, data.encoder = None, None
    try:
        yield
    finally:
        model.prefix, data.encoder = kept


def _why_not(model: ImageClassifier, data: ImageDataModule, trainer: Any) -> str | None:
    """Why features cannot stand for images; None where they can."""
    if not data.cache_features:
        return "cache_features is false"
    if all(p.requires_grad for p in model.parameters()):
        return "the encoder is not frozen"
    limits = (trainer.limit_train_batches, trainer.limit_val_batches)
    # 1.0 are all batches, 1 is one.
    whole = all(isinstance(limit, float) and limit == 1.0 for limit in limits)
    if trainer.fast_dev_run or trainer.overfit_batches or not whole:
        return "a part of the images is not worth the encoding of all"
    if any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
        return "a callback unfreezes it"
    stages = [data.stage("train"), *([data.stage("val")] if data.has_validation() else [])]
    if not all(isinstance(item.source, ImageDataset) for item in stages):
        return "a data set of your own that is no classifier.ImageDataset has no content hashes"
    if any(item.pipeline.name is None for item in stages):
        return "the augmentations cannot be told from others"
    if model.unfreeze_schedule is not None:
        return "unfreeze_schedule frees it"
    if model.lora is not None:
        return "lora trains adapters in most of its layers"
    if model.mixing is not None:
        return "mixup_config mixes images"
    if stages[0].pipeline.is_random and data.feature_views is None:
        log.info(
            "the encoder is frozen, but its input is augmented anew every epoch: "
            "augmentations.train: null, or %s: 4, would let it run once",
            _VIEWS.removeprefix("data.init_args."),
        )  # fmt: skip
        return "the augmentations are random"
    return None


def _prefix(model: ImageClassifier, data: ImageDataModule) -> FrozenPrefix | None:
    stage = data.stage("train")
    images = torch.stack([stage[0][0], stage[len(stage) - 1][0]])
    assert model.network is not None
    return FrozenPrefix.find(model.network, model.normalised(images))
