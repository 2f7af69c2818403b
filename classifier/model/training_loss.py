"""The loss that trains: from `loss_config` to a loss on class indices and on soft targets."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.errors import ConfigError, reason_of
from classifier.importing import check_arguments, import_path, parameters_of
from classifier.model.losses import bce, classification_loss, cross_entropy, focal
from classifier.model.tasks import MULTICLASS, MULTILABEL

LOSS = "model.init_args.loss_config"
_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
}
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
        self._own = _build_own(config, weights)
        self._dense = task == MULTILABEL or not _takes_indices(self._own, num_classes)
        if self._dense:
            _try(self._own, num_classes, f"the targets of a {task} training")
        if soft:
            _try(self._own, num_classes, "soft targets")

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
        _build_own(config, None)
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


# A loss of the user's own, by import path: built, and tried before the training


def _build_own(config: Mapping[str, Any], weights: Tensor | None) -> nn.Module:
    """The loss that an import path names, which gets the class weights as `weight`.

    Raises:
        ConfigError: no such class, arguments that it does not take, or parameters to learn.
    """
    name, given = config["name"], _arguments(config)
    found = import_path(name, f"{LOSS}.name")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(
            f"{LOSS}.name", "is no torch.nn.Module", got=name,
            remedy="Write the import path of a class that takes logits and targets",
        )  # fmt: skip
    if "weight" in given:
        raise ConfigError(
            f"{LOSS}.weight", "is set by class_weights",
            remedy="Write model.init_args.class_weights",
        )  # fmt: skip
    check_arguments(found, given, LOSS, hidden=("weight",))
    if weights is not None and "weight" not in (parameters_of(found) or ()):
        raise ConfigError(
            "model.init_args.class_weights", f"{found.__name__} takes no weights of classes",
            remedy="Write null, or choose a loss whose __init__ takes weight",
        )  # fmt: skip
    try:
        loss: nn.Module = found(**given, **({} if weights is None else {"weight": weights}))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            LOSS, f"{name} refuses its arguments: {reason_of(error, 200)}", got=given,
            remedy=f"It takes {', '.join(inspect.signature(found).parameters)}",
        ) from error  # fmt: skip
    if any(True for _ in loss.parameters()):
        raise ConfigError(
            f"{LOSS}.name", "has parameters to learn, which the optimizer does not get", got=name,
            remedy="Choose a loss without parameters",
        )  # fmt: skip
    return loss


def _takes_indices(loss: nn.Module, num_classes: int) -> bool:
    try:
        _try(loss, num_classes, "class indices", indices=True)
    except ConfigError:
        return False  # then it must take shares
    return True


def _try(loss: nn.Module, num_classes: int, kind: str, *, indices: bool = False) -> None:
    """Refuse a loss that does not take a kind of targets: class indices, or shares (N, C)."""
    size = num_classes + 2  # not as many images as classes: no loss may take the one for the other
    logits = torch.linspace(-1.0, 1.0, size * num_classes).view(size, num_classes)
    targets = torch.arange(size) % num_classes
    if not indices:
        one_hot = F.one_hot(targets, num_classes).float()
        targets = 0.75 * one_hot + 0.25 * one_hot.roll(1, 0)
    name = type(loss).__name__
    try:
        value = loss(logits, targets)
    except Exception as error:  # a class of anyone's, which may raise anything
        raise ConfigError(
            f"{LOSS}.name", f"{name} does not take {kind} ({reason_of(error, 200)})",
            remedy="Choose another loss",
        ) from error  # fmt: skip
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ConfigError(
            f"{LOSS}.name", f"{name} gives more than one number", remedy="Write reduction: mean"
        )
