"""What the images are: the task and the classes of a run, and each data set's targets in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from classifier.data.datasets import scanned
from classifier.data.paths import empty_folders
from classifier.data.rules import DATA, DATASETS
from classifier.data.splitting import classes_of
from classifier.errors import ConfigError

log = logging.getLogger(__name__)

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}


class RunClasses:
    """The classes of a run.

    Args:
        datasets: train, val, test and predict, as far as they are given.
        known: Those of a checkpoint; None takes `configured`, else those of train.
        configured: data.init_args.class_names.
        task: multiclass or multilabel; None is what the data is.

    Raises:
        ConfigError: too few classes, classes that train lacks, or images without a class.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        known: Sequence[str] | None = None,
        configured: Sequence[str] | None = None,
        task: str | None = None,
    ) -> None:
        self._datasets = datasets
        self._known = known
        self._configured = configured
        self._task = task
        self._targets: dict[str, list[Any]] = {}

    @cached_property
    def task(self) -> str:
        """The task: multiclass or multilabel."""
        if self._task is not None:
            return self._task
        has_train = self._datasets.get("train") is not None
        source = scanned(self._datasets, "train") if has_train else None
        return "multilabel" if getattr(source, "is_multilabel", False) else "multiclass"

    @cached_property
    def names(self) -> list[str]:
        """The class names in the order of the logits."""
        if self._known:
            return list(self._known)
        key = f"{DATASETS}.train"
        if not self._configured:
            _refuse_empty_folders(scanned(self._datasets, "train"), key)
        names = list(self._configured or _class_names(scanned(self._datasets, "train"), key))
        if self.task == "multilabel" and any("|" in name for name in names):
            raise ConfigError(
                key, "several labels are written with | between them: no name may hold one",
                got=next(name for name in names if "|" in name), remedy="Rename the class",
            )  # fmt: skip
        if len(_SPLIT_NAMES & set(names)) > 1:
            log.warning(
                "the classes are called %s: is %s one folder too high?",
                ", ".join(names), f"{key}.init_args.root",
            )  # fmt: skip
        if len(names) < (1 if self.task == "multilabel" else 2):
            raise ConfigError(
                key, "needs at least two classes", got=names,
                remedy="Put the images into one sub-folder per class",
            )  # fmt: skip
        return names

    def targets(self, stage: str) -> list[Any]:
        """Per image of a stage's data set its class index, or a tuple of them, in `names`."""
        if stage not in self._targets:
            self._targets[stage] = self._map_targets(stage)
        return self._targets[stage]

    def _map_targets(self, stage: str) -> list[Any]:
        dataset, key = scanned(self._datasets, stage), f"{DATASETS}.{stage}"
        own = _class_names(dataset, key)
        places = {label: place for place, label in enumerate(self.names)}
        if getattr(dataset, "is_multilabel", False) and self.task == "multiclass":
            raise ConfigError(
                "model.init_args.task", f"{key} has images with several labels", got=self.task,
                remedy="Write multilabel",
            )  # fmt: skip
        given = _targets(dataset, key)
        occurring = {n for target in given for n in classes_of(target) if n >= 0}
        self._check_names([own[n] for n in sorted(occurring)], stage)
        without = [
            i for i, target in enumerate(given) if not isinstance(target, tuple) and target < 0
        ]
        if without:
            describe = getattr(dataset, "describe", str)
            raise ConfigError(
                key, f"has {len(without)} image{'s' * (len(without) > 1)} without a class",
                got=str(describe(without[0])),
                remedy="Move every image into the folder of its class, or fill in its label; a "
                "table of images with several labels, or none, needs a delimiter",
            )  # fmt: skip
        index = [places.get(label, -1) for label in own]
        mapped: dict[Any, Any] = {t: tuple(index[n] for n in classes_of(t)) for t in set(given)}
        if self.task != "multilabel":
            mapped = {target: names[0] for target, names in mapped.items()}
        return [mapped[target] for target in given]  # one object for all that are alike

    def _check_names(self, present: Sequence[str], stage: str) -> None:
        """Refuse classes that the run does not have; tell of those that a stage lacks."""
        key = f"{DATASETS}.{stage}"
        unknown = sorted(set(present) - set(self.names), key=present.index)
        if unknown and stage == "train":
            raise ConfigError(
                f"{DATA}.class_names", f"lacks classes that {key} has: {', '.join(unknown)}",
                got=self.names, remedy="Add them, or write null",
            )  # fmt: skip
        if unknown:
            raise ConfigError(
                key, f"has classes that training does not have: {', '.join(unknown)}; "
                f"training has {', '.join(self.names)}",
                remedy="Use the same class folders everywhere",
            )  # fmt: skip
        missing = sorted(set(self.names) - set(present), key=self.names.index)
        if missing:
            log.warning("%s has no images of: %s", key, ", ".join(missing))
        empty = empty_folders(self._datasets[stage], self.names)
        if empty:
            log.warning("%s has folders without an image: %s", key, ", ".join(empty))


def _refuse_empty_folders(dataset: Any, key: str) -> None:
    """Refuse class folders without an image, where folders are all that says what is a class."""
    empty = [f"{name} holds {holds}" for name, holds in empty_folders(dataset).items()]
    if empty and len(dataset.class_names):
        more = [f"{len(empty) - 5} more"] if len(empty) > 5 else []
        raise ConfigError(
            key, f"has class folders without an image: {'; '.join([*empty[:5], *more])}",
            remedy="Put images into each or take it away; or list the classes that there are in "
            f"{DATA}.class_names",
        )  # fmt: skip


def _class_names(dataset: Any, key: str) -> list[str]:
    """The class names of any data set: `class_names`, or torchvision's `classes`."""
    names = getattr(dataset, "class_names", None) or getattr(dataset, "classes", None)
    if not names and not getattr(dataset, "is_multilabel", False):
        raise ConfigError(
            key, f"{type(dataset).__name__} has no class names",
            remedy="Put the images into one sub-folder per class, or give your data set class a "
            "list class_names",
        )  # fmt: skip
    return [str(name) for name in names or ()]


def _targets(dataset: Any, key: str) -> list[Any]:
    """The class index of every sample of any data set, or a tuple of them."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        raise ConfigError(
            key, f"{type(dataset).__name__} has no targets",
            remedy="Give your data set class a list targets with one class index per sample",
        )  # fmt: skip
    return [target if isinstance(target, tuple) else int(target) for target in targets]
