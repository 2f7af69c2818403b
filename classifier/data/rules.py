"""What a user may say about the choice of images, and the checks of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classifier.errors import ConfigError

DATA = "data.init_args"
DATASETS = f"{DATA}.dataset_classes"
STAGES = ("train", "val", "test", "predict")


@dataclass(frozen=True)
class Rules:
    """How images are chosen; every field is the key of that name below data.init_args.

    Args:
        val_fraction: Part of train that is held out where val is null.
        test_fraction: Part of train that is held out where test is null.
        folds: Parts of a cross-validation.
        fold: Which of them is validated on.
        group_pattern: Regular expression on the path.
        group_duplicates: Exact copies stay on one side of a split.
        class_names: All classes, in the order of the logits.
        on_bad_image: error or skip.
        max_samples: Of train.
    """

    val_fraction: float
    test_fraction: float
    folds: int | None
    fold: int
    group_pattern: str | None
    group_duplicates: bool
    class_names: Sequence[str] | None
    on_bad_image: str
    max_samples: int | None

    def holds_out(self, stage: str) -> bool:
        """Whether val or test gets a part of train where it has no data set of its own."""
        if stage == "test":
            return self.test_fraction > 0
        return stage == "val" and (self.val_fraction > 0 or self.folds is not None)

    def check(self) -> None:
        """Refuse values out of their range.

        Raises:
            ConfigError: names the key.
        """
        check_minimum("folds", self.folds, 2)
        check_minimum("max_samples", self.max_samples, 1)
        check_choice("on_bad_image", self.on_bad_image, ("error", "skip"))
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ConfigError(
                    f"{DATA}.{name}", "must be in [0, 1)", got=value, remedy="Write for example 0.2"
                )
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ConfigError(
                f"{DATA}.test_fraction", "leaves nothing to train on beside val_fraction "
                f"({self.val_fraction})", got=self.test_fraction,
            )  # fmt: skip
        if not 0 <= self.fold < (self.folds or 1):
            raise ConfigError(
                f"{DATA}.fold", "must be from 0 to folds - 1", got=self.fold,
                remedy="Write a smaller number" if self.folds else "Add folds: 5",
            )  # fmt: skip
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            raise ConfigError(
                f"{DATA}.group_pattern", f"is no regular expression ({error})",
                got=self.group_pattern,
            ) from error  # fmt: skip
        names = self.class_names
        if names is not None and (len(set(names)) < len(names) or not names):
            raise ConfigError(f"{DATA}.class_names", "must be distinct names", got=list(names))


def check_minimum(name: str, value: int | None, low: int, other: str = "") -> None:
    """Refuse a number below the lowest that makes sense; None is none.

    Args:
        name: Of the argument.
        value: The user's.
        low: What makes sense.
        other: What may be written instead of a number, for the message.

    Raises:
        ConfigError: the number is lower.
    """
    if value is not None and value < low:
        raise ConfigError(
            f"{DATA}.{name}", f"must be at least {low}", got=value,
            remedy=f"Write {other}a whole number from {low} on",
        )  # fmt: skip


def check_choice(name: str, value: str | None, options: tuple[str | None, ...]) -> None:
    """Refuse a value that is not among the options."""
    if value not in options:
        names = ["null" if option is None else option for option in options]
        raise ConfigError(
            f"{DATA}.{name}", "unknown value", got=value, name=str(value), options=names,
            remedy=f"Write {' or '.join(names)}",
        )  # fmt: skip


def check_stages(given: Mapping[str, Any], key: str, known: Collection[str]) -> None:
    """Refuse a mapping by stages that names an unknown one."""
    for stage in given:
        if stage not in known:
            raise ConfigError(
                f"{key}.{stage}", "unknown stage", remedy=f"The stages are {', '.join(known)}",
                name=stage, options=known,
            )  # fmt: skip


def check_augmentations(dataset: Any, key: str) -> None:
    """Refuse a data set that cannot be given a pipeline.

    Args:
        dataset: Any map-style data set.
        key: Of the configuration that holds it.
    """
    if not hasattr(dataset, "augmentations"):
        raise ConfigError(
            key, f"{type(dataset).__name__} has no attribute augmentations",
            remedy="Let its __init__ take augmentations=None and keep it as self.augmentations",
        )  # fmt: skip
