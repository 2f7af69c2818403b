"""A loss of the user's own, by import path: built, and tried before the training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path, parameters_of
from classifier.model.tasks import MULTICLASS, MULTILABEL

LOSS = "model.init_args.loss_config"


def build_own_loss(config: Mapping[str, Any], weights: Tensor | None) -> nn.Module:
    """The loss that an import path names.

    Args:
        config: `name` and the arguments of its __init__.
        weights: (C,) class weights, given to an __init__ that takes `weight`; or None.

    Raises:
        ConfigError: no such class, arguments that it does not take, or parameters to learn.
    """
    name = config["name"]
    given = {key: value for key, value in config.items() if key != "name"}
    arguments = dict(given)
    found = import_path(name, f"{LOSS}.name")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(
            f"{LOSS}.name", "is no torch.nn.Module", got=name,
            remedy="Write the import path of a class that takes logits and targets",
        )  # fmt: skip
    if "weight" in arguments:
        raise ConfigError(
            f"{LOSS}.weight", "is set by class_weights",
            remedy="Write model.init_args.class_weights",
        )  # fmt: skip
    check_arguments(found, arguments, LOSS, hidden=("weight",))
    if weights is not None:
        if "weight" not in (parameters_of(found) or ()):
            raise ConfigError(
                "model.init_args.class_weights", f"{found.__name__} takes no weights of classes",
                remedy="Write null, or choose a loss whose __init__ takes weight",
            )  # fmt: skip
        arguments["weight"] = weights
    try:
        loss: nn.Module = found(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            LOSS, f"{name} refuses its arguments: {_reason(error)}", got=given,
            remedy=f"It takes {', '.join(inspect.signature(found).parameters)}",
        ) from error  # fmt: skip
    if any(True for _ in loss.parameters()):
        raise ConfigError(
            f"{LOSS}.name", "has parameters to learn, which the optimizer does not get", got=name,
            remedy="Choose a loss without parameters",
        )  # fmt: skip
    return loss


def takes_one_hot_only(loss: nn.Module, task: str, num_classes: int) -> bool:
    """Whether a loss takes (N, C) shares and no class indices.

    Args:
        loss: Tried on a few images.
        task: multiclass or multilabel.
        num_classes: C.

    Raises:
        ConfigError: it takes neither.
    """
    if task == MULTICLASS:
        try:
            _try(loss, *_example(task, num_classes, one_hot=False), why="")
            return False
        except ConfigError:
            pass  # then it must take one-hot targets
    _try(loss, *_example(task, num_classes, one_hot=True), why=f"the targets of a {task} training")
    return True


def check_soft(loss: nn.Module, task: str, num_classes: int) -> None:
    """Refuse a loss that takes no mixed targets.

    Args:
        loss: Tried on a few images.
        task: multiclass or multilabel.
        num_classes: C.

    Raises:
        ConfigError: it does not take them.
    """
    _try(loss, *_example(task, num_classes, one_hot=True), why="soft targets")


def _try(loss: nn.Module, logits: Tensor, targets: Tensor, why: str) -> None:
    name = type(loss).__name__
    try:
        value = loss(logits, targets)
    except Exception as error:  # a class of anyone's, which may raise anything
        raise ConfigError(
            f"{LOSS}.name", f"{name} does not take {why} ({_reason(error)})",
            remedy="Choose another loss",
        ) from error  # fmt: skip
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ConfigError(
            f"{LOSS}.name", f"{name} gives more than one number", remedy="Write reduction: mean"
        )


def _example(task: str, num_classes: int, *, one_hot: bool) -> tuple[Tensor, Tensor]:
    """More images than classes: no loss may take the one for the other."""
    size = num_classes + 2
    logits = torch.linspace(-1.0, 1.0, size * num_classes).view(size, num_classes)
    targets = torch.arange(size) % num_classes
    if one_hot or task == MULTILABEL:
        shares = F.one_hot(targets, num_classes).float()
        return logits, 0.75 * shares + 0.25 * shares.roll(1, 0)
    return logits, targets


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
