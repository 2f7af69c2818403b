"""What is made sure of before the first batch: data, classes, image size, weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from classifier.callbacks.metrics import MetricsLogger, num_classes_of, task_of
from classifier.checkpoints import check_same_batches
from classifier.errors import ConfigError, RunError
from classifier.model.classifier import CHECKPOINT_KEY, ImageClassifier
from classifier.model.encoders import MODEL_NAME, PRETRAINED
from classifier.model.lora import named_as_with_adapters
from classifier.model.losses import shown_weights
from classifier.model.tasks import MULTICLASS, class_facts

log = logging.getLogger(__name__)


def prepare_training(
    model: L.LightningModule,
    data: Any,
    checkpoint: Mapping[str, Any] | None = None,
    *,
    from_weights: bool = False,
    num_ranks: int = 1,
) -> None:
    """Scan the data, build the network and send one image through it.

    Args:
        model: As the configuration made it.
        data: As the configuration made it.
        checkpoint: What the training resumes; its classes must be the data's.
        from_weights: The weights of a checkpoint come afterwards.
        num_ranks: Processes that train together.

    Raises:
        ConfigError: anything that would stop the training later.
    """
    if isinstance(model, ImageClassifier) and model.task and hasattr(data, "task"):
        data.task = model.task
    data.setup("fit")
    if not isinstance(model, ImageClassifier):
        return
    facts = class_facts(data)
    if checkpoint is None:
        if (model.freeze_encoder or model.lora) and not model.pretrained and not from_weights:
            log.warning(
                "%s with pretrained: false freezes layers at random weights",
                "lora" if model.lora else f"freeze_encoder: {model.freeze_encoder}",
            )
        model.build(**facts, resize_mode=getattr(data, "resize_mode", None))
    else:
        check_same_data(checkpoint[CHECKPOINT_KEY], facts)
        check_same_batches(checkpoint, getattr(data, "batch_size", None), num_ranks)
        model.rebuild(dict(checkpoint))
        model.weigh_classes(facts["class_counts"])
    if model.loss_weights is not None:
        log.info("class weights: %s", shown_weights(model.loss_weights, model.class_names or []))
    if hasattr(data, "preprocessing"):
        data.preprocessing = model.preprocessing
    if hasattr(data, "summary"):
        log.info("%s", data.summary())
    for name in ("train", "val"):
        if hasattr(data, "stage") and (name == "train" or data.has_validation()):
            _check_image(model, data.stage(name), name)


def prepare_check(
    model: L.LightningModule, data: Any, checkpoint: Mapping[str, Any] | None, *, from_weights: bool
) -> ConfigError | None:
    """The same before a look at all images, which needs no weights and no whole image.

    Args:
        model: As the configuration made it.
        data: As the configuration made it.
        checkpoint: What the training would resume.
        from_weights: The weights of a checkpoint would come afterwards.

    Returns:
        What is wrong with the weights, to be told after the images.
    """
    missing: ConfigError | None = None
    try:
        try:
            prepare_training(model, data, checkpoint, from_weights=from_weights)
        except ConfigError as error:
            if error.key != PRETRAINED:
                raise
            missing = error
            model.pretrained = False  # type: ignore[assignment]
            prepare_training(model, data, checkpoint, from_weights=from_weights)
    except RunError as error:
        if not isinstance(error.__cause__, OSError):
            raise  # else it is a bad image, one of those that the check lists
    return missing


def prepare_evaluation(
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
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(
            "ckpt_path", f"the checkpoint's parts do not fit each other ({reason})",
            remedy="Use a checkpoint as this program wrote it",
        ) from error  # fmt: skip
    if not isinstance(model, ImageClassifier):
        return
    data.class_names = model.class_names  # type: ignore[attr-defined]
    data.task = model.task  # type: ignore[attr-defined]
    data.preprocessing = model.preprocessing  # type: ignore[attr-defined]


def check_metrics(listed: Sequence[Any], model: L.LightningModule) -> None:
    """Refuse metrics that cannot be logged in the model's task or of its number of classes.

    Args:
        listed: The callbacks of the configuration.
        model: Prepared: its task and classes are known.

    Raises:
        ConfigError: names the metric.
    """
    for index, callback in enumerate(listed):
        if isinstance(callback, MetricsLogger):
            try:
                callback.check(task_of(model), num_classes_of(model))
            except ConfigError as error:
                key = f"trainer.callbacks.{index}.init_args.{error.key}"
                raise error.at(key) from error


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


def _check_image(model: ImageClassifier, dataset: Any, name: str) -> None:
    image = dataset[0][0]
    key = f"data.init_args.augmentations.{name}"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(image.unsqueeze(0))
    except (RuntimeError, ValueError, AssertionError) as error:
        height, width = model.preprocessing.size
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            key, f"gives images of {image.shape[1]} x {image.shape[2]} pixels, which "
            f"{model.model_name} refuses ({reason})",
            remedy=f"Resize to {height} x {width}, write null, or give "
            f"model.init_args.image_size: {_written(image.shape[1:])} if the encoder can take it",
        ) from error  # fmt: skip
    finally:
        model.train(was_training)
    sides = tuple(image.shape[1:])
    if model.image_size is not None and sides != model.preprocessing.size:
        log.warning(
            "%s gives images of %d x %d pixels, and model.init_args.image_size is %s: null, or "
            "classifier.RandomResizedCrop without a size, follows it",
            key, *sides, model.image_size,
        )  # fmt: skip
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, len(model.class_names or [])):
        raise ConfigError(
            MODEL_NAME, f"{model.model_name} gives logits of shape {shape} for one "
            f"image and {len(model.class_names or [])} classes",
            remedy="Let its forward return (N, num_classes)",
        )  # fmt: skip


def _written(size: Sequence[int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)
