"""Numbers per class: the thresholds of several labels, and the weights in the training loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from classifier.errors import ConfigError
from classifier.model.tasks import MULTICLASS

AUTO = "auto"
DEFAULT_THRESHOLD = 0.5
_THRESHOLDS = "model.init_args.thresholds"
_WEIGHTS = "model.init_args.class_weights"
_MOST_SHOWN = 12

PerClass = Mapping[str, float] | Sequence[float]


def check_thresholds(given: float | PerClass | None, task: str | None) -> None:
    """Refuse thresholds that no probability passes or all do, and those without effect.

    Args:
        given: As the user wrote them.
        task: None while it is not known.
    """
    if given is None:
        return
    if task == MULTICLASS:
        raise ConfigError(
            _THRESHOLDS, "has no effect: with one label per image the likeliest class wins",
            got=given, remedy="Write null, or task: multilabel",
        )  # fmt: skip
    named = {_THRESHOLDS: given} if isinstance(given, int | float) else _by_key(given, _THRESHOLDS)
    for key, value in named.items():
        if not 0.0 < value < 1.0:
            raise ConfigError(
                key, "must be in (0, 1)", got=value, remedy="Write for example 0.5"
            )  # fmt: skip


def resolve_thresholds(
    given: float | PerClass | None, task: str, class_names: Sequence[str]
) -> list[float] | None:
    """The probability from which on an image has a class, for every class.

    Args:
        given: As the user wrote them; classes without one have 0.5.
        task: multiclass or multilabel.
        class_names: In the order of the logits.

    Returns:
        None in multiclass, where nothing is compared with a threshold.

    Raises:
        ConfigError: names or numbers that do not fit.
    """
    check_thresholds(given, task)
    if task == MULTICLASS:
        return None
    if given is None or isinstance(given, int | float):
        return [DEFAULT_THRESHOLD if given is None else float(given)] * len(class_names)
    return _numbers(given, class_names, _THRESHOLDS, DEFAULT_THRESHOLD)


def check_weights(given: str | PerClass | None) -> None:
    """Refuse weights that cannot be, before the classes are known.

    Args:
        given: As the user wrote them.
    """
    if given is None or given == AUTO:
        return
    if isinstance(given, str):
        raise ConfigError(
            _WEIGHTS, "must be auto, weights by class name, or a list of weights", got=given,
            remedy="Write auto or null", name=given, options=[AUTO],
        )  # fmt: skip
    for key, value in _by_key(given, _WEIGHTS).items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(
                key, "must be a number from 0 on", got=value, remedy="Write for example 1.0"
            )  # fmt: skip


def resolve_weights(
    given: str | PerClass | None, class_names: Sequence[str], class_counts: Sequence[int] | None
) -> Tensor | None:
    """The weight of every class in the training loss, (C,) float32; None without weights.

    Args:
        given: As the user wrote them; classes that are not named weigh 1.0.
        class_names: In the order of the logits.
        class_counts: Training images per class, which `auto` needs.

    Raises:
        ConfigError: names, numbers or counts that do not fit.
    """
    check_weights(given)
    if given is None:
        return None
    if not isinstance(given, str):
        weights = torch.tensor(_numbers(given, class_names, _WEIGHTS, 1.0), dtype=torch.float32)
        if not weights.any():
            raise ConfigError(
                _WEIGHTS, "leaves no class to learn: every weight is 0", got=given,
                remedy="Write null to weigh all classes alike",
            )  # fmt: skip
        return weights
    if class_counts is None:
        raise ConfigError(
            _WEIGHTS, "the data does not say how many images its classes have", got=given,
            remedy="Write the weights by class name",
        )  # fmt: skip
    return balanced_weights(class_counts)


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Weights inverse to the frequency, (C,) float32, with mean 1.0.

    Args:
        class_counts: Training images per class; a class without any weighs 1.0.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = torch.ones_like(counts)
    found = counts > 0
    if found.any():
        inverse = counts[found].reciprocal()
        weights[found] = inverse / inverse.mean()
    return weights.float()


def shown_weights(weights: Tensor, class_names: Sequence[str]) -> str:
    """Class names with their weights, in one line.

    Args:
        weights: (C,).
        class_names: In the order of the logits.
    """
    pairs = zip(class_names, weights.tolist(), strict=True)
    parts = [f"{name} {weight:.3g}" for name, weight in pairs]
    return ", ".join(parts if len(parts) <= _MOST_SHOWN else [*parts[:10], f"... {parts[-1]}"])


def _by_key(given: PerClass, key: str) -> dict[str, float]:
    """The numbers under their dotted keys, for messages."""
    items = given.items() if isinstance(given, Mapping) else enumerate(given)
    return {f"{key}.{name}": value for name, value in items}


def _numbers(given: PerClass, class_names: Sequence[str], key: str, default: float) -> list[float]:
    """One number for each class, those that are not named having the default."""
    classes = ", ".join(class_names)
    if not isinstance(given, Mapping):
        if len(given) != len(class_names):
            raise ConfigError(
                key, f"has {len(given)} numbers, and there are {len(class_names)} classes "
                f"({classes})",
                got=list(given), remedy="Write one number for each class in this order",
            )  # fmt: skip
        return [float(value) for value in given]
    # YAML reads the class name 7 as a number.
    named = {str(name): float(value) for name, value in given.items()}
    for name in named:
        if name not in class_names:
            raise ConfigError(
                f"{key}.{name}", "there is no such class", remedy=f"The classes are {classes}",
                name=name, options=class_names,
            )  # fmt: skip
    return [named.get(name, default) for name in class_names]
