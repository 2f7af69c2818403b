"""The loss that trains: by name or import path, on class indices and on soft targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.errors import ConfigError
from classifier.importing import check_arguments
from classifier.model.losses import classification_loss
from classifier.model.own_loss import LOSS, build_own_loss, check_soft, takes_one_hot_only
from classifier.model.tasks import MULTICLASS, MULTILABEL

_GIVEN = ("logits", "targets", "weights", "task")  # not the user's to give


class TrainingLoss:
    """The training loss of a configuration, always in float32.

    Not a module: its class weights belong to a data set, not into the weights of a checkpoint.

    Args:
        config: `name` and the loss's own arguments; None is the cross-entropy, in multilabel the
            binary one of every class.
        task: multiclass or multilabel.
        num_classes: C.
        weights: (C,) float32 class weights, or None.
        soft: Whether mixed targets will come, so that a class of the user's own must take them.

    Raises:
        ConfigError: a loss that does not fit the task, the weights or soft targets.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None,
        task: str,
        num_classes: int,
        weights: Tensor | None = None,
        *,
        soft: bool = False,
    ) -> None:
        check_loss(config, task)
        self.task = task
        self._is_default = config is None
        self._weights = weights
        self._own: nn.Module | None = None
        self._dense = True
        if config is None or config["name"] in _LOSSES:
            name = "cross_entropy" if config is None else config["name"]
            self._loss = partial(_LOSSES[name], **_arguments(config or {}))
            return
        self._own = build_own_loss(config, weights)
        self._dense = takes_one_hot_only(self._own, task, num_classes)
        if soft:
            check_soft(self._own, task, num_classes)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (N, C), of any floating type.
            targets: (N,) class indices, or (N, C) shares of each class in [0, 1].

        Returns:
            One number, float32.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            weights = None if self._weights is None else self._weights.to(logits.device)
            if self._is_default and (self.task == MULTILABEL or targets.ndim == 1):
                return classification_loss(logits, targets, self.task, weights)
            if targets.ndim == 1 and self._dense:
                targets = F.one_hot(targets, logits.shape[1])
            if targets.ndim == 2:
                targets = targets.float()
            if self._own is None:
                return self._loss(logits, targets, weights, self.task)
            loss: Tensor = self._own.to(logits.device)(logits, targets)
            return loss


# The losses by name. Targets are (N, C) floats, one-hot or mixed.


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy, divided by the weights of the batch's images.

    On one-hot targets torch.nn.CrossEntropyLoss on class indices. That class divides by the number
    of images where targets are mixed, so that class weights would change the learning rate.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None.
        task: Always multiclass.
        label_smoothing: In [0, 1): this share of each target is spread over all classes.
    """
    total = F.cross_entropy(
        logits, targets, weight=weights, reduction="sum", label_smoothing=label_smoothing
    )
    return total / _mass(targets, weights)


def bce(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    label_smoothing: float = 0.0,
    target_threshold: float | None = None,
    sum_classes: bool = False,
) -> Tensor:
    """Binary cross-entropy of every class against the others: the mean over images and classes.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None; a factor of each class's terms.
        task: multiclass or multilabel.
        label_smoothing: In [0, 1): multiclass spreads this share of each target over all classes,
            multilabel moves each target this far towards 0.5.
        target_threshold: In (0, 1): shares above it count as 1, others as 0; None keeps them.
        sum_classes: Add up the classes instead of taking their mean.

    Source: timm.loss.BinaryCrossEntropy; Wightman et al., "ResNet strikes back", 2021, section 3.
    """
    off = label_smoothing / (logits.shape[1] if task == MULTICLASS else 2)
    targets = targets * (1.0 - label_smoothing) + off
    if target_threshold is not None:
        targets = (targets > target_threshold).float()
    terms = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    return terms.sum(dim=1).mean() if sum_classes else terms.mean()


def focal(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss: the terms of the cross-entropy, smaller the surer the right answer is.

    Multiclass uses the softmax and divides by the weights of the batch's images, so that gamma 0 is
    `cross_entropy`; multilabel uses the sigmoid of every class and takes the mean of all terms.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None; the alpha of each class.
        task: multiclass or multilabel.
        gamma: From 0 on; 0 is the cross-entropy.
        alpha: Multilabel only: in [0, 1], the weight of a present class, 1 - alpha that of an
            absent one; None weighs both 1.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equations 4 and 5.
    """
    if task == MULTICLASS:
        log_chances = F.log_softmax(logits, dim=1)
        terms = -targets * log_chances * _unsure(log_chances.exp(), gamma)
        terms = terms if weights is None else terms * weights
        return terms.sum() / _mass(targets, weights)
    chances = logits.sigmoid()
    right = chances * targets + (1.0 - chances) * (1.0 - targets)
    terms = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    terms = terms * _unsure(right, gamma)
    if alpha is not None:
        terms = terms * (alpha * targets + (1.0 - alpha) * (1.0 - targets))
    return terms.mean()


def _unsure(chances: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma; the bound keeps the slope finite where p is 1 and gamma below 1."""
    return (1.0 - chances).clamp(min=torch.finfo(chances.dtype).eps).pow(gamma)


def _mass(targets: Tensor, weights: Tensor | None) -> Tensor:
    total = targets.sum() if weights is None else (targets @ weights).sum()
    return total.clamp(min=torch.finfo(targets.dtype).tiny)


_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
}


# What can be wrong with a configuration


def check_loss(config: Mapping[str, Any] | None, task: str | None = None) -> None:
    """Refuse losses that there are not, and arguments that they do not take.

    Args:
        config: As the user wrote it.
        task: None while it is not known.

    Raises:
        ConfigError: names the key and the nearest name.
    """
    if config is None:
        return
    name, arguments = config.get("name"), _arguments(config)
    if not isinstance(name, str):
        raise ConfigError(
            f"{LOSS}.name", "must be the name of a loss", got=name,
            remedy="Write for example name: cross_entropy",
        )  # fmt: skip
    if "." in name:
        build_own_loss(config, None)
        return
    if name not in _LOSSES:
        raise ConfigError(
            f"{LOSS}.name", "unknown loss", got=name, name=name, options=list(_LOSSES),
            remedy=f"Write {', '.join(_LOSSES)}, or the import path of a class",
        )  # fmt: skip
    check_arguments(_LOSSES[name], arguments, LOSS, hidden=_GIVEN)
    for key, value in arguments.items():
        _check_value(key, value)
    if arguments.get("label_smoothing") and arguments.get("target_threshold") is not None:
        raise ConfigError(
            f"{LOSS}.label_smoothing", "has no effect beside target_threshold, which makes every "
            "target 0 or 1", got=arguments["label_smoothing"], remedy="Leave one of the two out",
        )  # fmt: skip
    _check_task(name, arguments, task)


def _check_value(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    threshold = value is None or (number and 0 < value < 1)
    rules = {
        "label_smoothing": (number and 0 <= value < 1, "must be in [0, 1)", "0.1"),
        "target_threshold": (threshold, "must be in (0, 1) or null", "0.2"),
        "gamma": (number and 0 <= value < math.inf, "must be a number from 0 on", "2.0"),
        "alpha": (value is None or (number and 0 <= value <= 1), "must be in [0, 1]", "0.25"),
        "sum_classes": (isinstance(value, bool), "must be true or false", "false"),
    }  # fmt: skip
    right, problem, example = rules.get(key, (True, "", ""))
    if not right:
        raise ConfigError(
            f"{LOSS}.{key}", problem, got=value, remedy=f"Write for example {example}"
        )


def _check_task(name: str, arguments: Mapping[str, Any], task: str | None) -> None:
    if task == MULTILABEL and name == "cross_entropy":
        raise ConfigError(
            f"{LOSS}.name", "is for one label per image, and the data is multilabel", got=name,
            remedy="Write bce, focal or null",
        )  # fmt: skip
    if task == MULTICLASS and arguments.get("alpha") is not None:
        raise ConfigError(
            f"{LOSS}.alpha", "is for several labels per image, and the data is multiclass",
            got=arguments["alpha"], remedy="Weigh the classes by class_weights",
        )  # fmt: skip


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "name"}
