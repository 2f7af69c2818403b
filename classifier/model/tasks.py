"""One label per image or several: what the data is, its probabilities, and numbers per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from classifier.errors import ConfigError

MULTICLASS = "multiclass"
MULTILABEL = "multilabel"
TASKS = (MULTICLASS, MULTILABEL)
DEFAULT_THRESHOLD = 0.5

_THRESHOLDS = "model.init_args.thresholds"

PerClass = Mapping[str, float] | Sequence[float]


def class_facts(data: Any) -> dict[str, Any]:
    """What a data module knows of its classes, as the arguments of `ImageClassifier.build`.

    Args:
        data: Any data module after setup("fit"), or None. What it does not know is None.
    """
    counts = getattr(data, "class_counts", None)
    task = getattr(data, "task", None)
    return {
        "class_names": getattr(data, "class_names", None),
        "task": task if task in TASKS else None,
        "class_counts": counts() if callable(counts) else None,
    }


def check_task(task: str | None) -> None:
    """Refuse a task that there is not.

    Args:
        task: As the user wrote it.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(
            "model.init_args.task", "must be multiclass, multilabel or null", got=task,
            remedy="Write null to take it from the data", name=task, options=TASKS,
        )  # fmt: skip


def resolve_task(given: str | None, found: str | None) -> str:
    """The task of a training.

    Args:
        given: The user's, or None.
        found: The data's, or None where it does not say.

    Raises:
        ConfigError: they disagree.
    """
    if given is not None and found is not None and given != found:
        raise ConfigError(
            "model.init_args.task", f"disagrees with the data, which is {found}", got=given,
            remedy="Write null to take it from the data",
        )  # fmt: skip
    return given or found or MULTICLASS


def resolve_classes(num_classes: int | None, class_names: Sequence[str] | None) -> list[str]:
    """The class names of a training.

    Args:
        num_classes: The user's, or None.
        class_names: The data's, or None where it has none: they are numbered then.

    Raises:
        ConfigError: the number of classes is unknown or disagrees with the data.
    """
    key = "model.init_args.num_classes"
    if class_names is None:
        if num_classes is None:
            raise ConfigError(
                key, "is null, and there is no data to take it from",
                remedy="Write the number of classes, or train with an ImageDataModule",
            )  # fmt: skip
        return [str(index) for index in range(num_classes)]
    if num_classes not in (None, len(class_names)):
        raise ConfigError(
            key, f"disagrees with the data, which has {len(class_names)} classes "
            f"({', '.join(class_names)})",
            got=num_classes, remedy="Write null to take it from the data",
        )  # fmt: skip
    return list(class_names)


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Probabilities (N, C) in float32: of each class by itself, or adding up to 1 over them.

    Args:
        logits: (N, C).
        task: multilabel or multiclass.
    """
    values = logits.float()
    return values.sigmoid() if task == MULTILABEL else values.softmax(dim=1)


def decisions(probabilities: Tensor, thresholds: Sequence[float] | None) -> Tensor:
    """Which classes an image has, (N, C) bool.

    Args:
        probabilities: (N, C).
        thresholds: One for each class; None gives every image its likeliest class alone.
    """
    if thresholds is None:
        best = probabilities.argmax(dim=1, keepdim=True)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, best, True)
    limits = torch.tensor(thresholds, dtype=torch.float32, device=probabilities.device)
    return probabilities >= limits


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
    named = {_THRESHOLDS: given} if isinstance(given, int | float) else by_key(given, _THRESHOLDS)
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
        task: None in multiclass, where nothing is compared with a threshold.
        class_names: In the order of the logits.
    """
    check_thresholds(given, task)
    if task == MULTICLASS:
        return None
    if given is None or isinstance(given, int | float):
        return [DEFAULT_THRESHOLD if given is None else float(given)] * len(class_names)
    return per_class(given, class_names, _THRESHOLDS, DEFAULT_THRESHOLD)


def by_key(given: PerClass, key: str) -> dict[str, float]:
    """The numbers under their dotted keys, for messages.

    Args:
        given: By class name, or in the order of the classes.
        key: Of the whole.
    """
    items = given.items() if isinstance(given, Mapping) else enumerate(given)
    return {f"{key}.{name}": value for name, value in items}


def per_class(given: PerClass, class_names: Sequence[str], key: str, default: float) -> list[float]:
    """One number for each class.

    Args:
        given: By class name, or one for each class in their order.
        class_names: In the order of the logits.
        key: Of the configuration, for messages.
        default: Of classes that are not named.

    Raises:
        ConfigError: a name that is no class, or another number of numbers than of classes.
    """
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
