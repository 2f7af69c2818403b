"""A checkpoint's weights and classes, put into a model: to evaluate it, or to train from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor

from classifier.errors import ConfigError, reason_of
from classifier.model.classifier import ImageClassifier
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.model.lora import named_as_with_adapters
from classifier.model.tasks import MULTICLASS

log = logging.getLogger(__name__)


def restore(
    model: L.LightningModule, data: L.LightningDataModule, checkpoint: dict[str, Any]
) -> None:
    """Build the checkpoint's network with its weights, and give its classes to the data.

    Args:
        model: As the configuration made it.
        data: As the configuration made it.
        checkpoint: Of an ImageClassifier.
    """
    try:
        if isinstance(model, ImageClassifier):
            model.rebuild(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = reason_of(error, 200)
        raise ConfigError(
            "ckpt_path", f"the checkpoint's parts do not fit each other ({reason})",
            remedy="Use a checkpoint as this program wrote it",
        ) from error  # fmt: skip
    if not isinstance(model, ImageClassifier):
        return
    data.class_names = model.class_names  # type: ignore[attr-defined]
    data.task = model.task  # type: ignore[attr-defined]
    data.preprocessing = model.preprocessing  # type: ignore[attr-defined]


def check_same_data(saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse to go on with another task or other classes, or with these in another order.

    Args:
        saved: What the checkpoint says of its classes.
        found: What the data module knows of them.

    Raises:
        ConfigError: with both.
    """
    task = saved.get("task", MULTICLASS)
    if found["task"] not in (None, task):
        raise ConfigError(
            "ckpt_path", f"the checkpoint is {task}, and the data is {found['task']}",
            remedy="Use the same data, or only_weights_load: true for a new training",
        )  # fmt: skip
    names = found["class_names"]
    if names is not None and list(saved["class_names"]) != list(names):
        raise ConfigError(
            "ckpt_path", f"the checkpoint's classes are {', '.join(saved['class_names'])}; "
            f"the data's are {', '.join(names)}",
            remedy="Use the same class folders, or only_weights_load: true for a new training",
        )  # fmt: skip


def load_weights(model: L.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Take the weights of a checkpoint into a new training; the head only where it fits.

    Args:
        model: Built for the new data.
        checkpoint: Whose weights are taken.

    Raises:
        ConfigError: the checkpoint holds another encoder.
    """
    weights: dict[str, Tensor] = dict(checkpoint["state_dict"])
    own = model.state_dict()
    network = getattr(model, "network", None)
    if network is not None and CHECKPOINT_KEY in checkpoint:
        weights = named_as_with_adapters(network, weights, "network.")
    other = sorted(set(own) ^ set(weights))
    unlike = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    saved = checkpoint.get(CHECKPOINT_KEY, {})
    old_classes = saved.get("class_names") or []
    new_classes = getattr(model, "class_names", None) or []
    head = _head_names(model)
    if other or any(name not in head for name in unlike):
        name = checkpoint.get("hyper_parameters", {}).get("model_name", "another model")
        raise ConfigError(
            "model.init_args.model_name", f"the checkpoint holds {name}, which is built otherwise",
            got=getattr(model, "model_name", None), remedy=f"Write model_name: {name}",
        )  # fmt: skip
    if unlike:
        log.info(
            "only_weights_load: the head is new, for %d classes instead of %d",
            len(new_classes), len(old_classes),
        )  # fmt: skip
    elif old_classes != new_classes:
        log.warning(
            "only_weights_load: the head is kept, but the checkpoint's classes were %s",
            ", ".join(old_classes),
        )
    kept = {name: value for name, value in weights.items() if name not in unlike}
    model.load_state_dict({**own, **kept})
    if isinstance(model, ImageClassifier):
        model.train_loss.reset()  # an interrupted epoch's, which is not this training's


def _head_names(model: L.LightningModule) -> set[str]:
    network = getattr(model, "network", None)
    if network is None:
        return set()
    encoder = {name for group in network.layer_groups() for name in group.parameters}
    return {f"network.{name}" for name, _ in network.named_parameters() if name not in encoder}
