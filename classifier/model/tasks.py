"""One label per image or several, of which classes: as the user says, and as the data is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classifier.errors import ConfigError

MULTICLASS = "multiclass"
MULTILABEL = "multilabel"
TASKS = (MULTICLASS, MULTILABEL)


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
