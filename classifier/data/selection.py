"""Which images each stage sees, and as what: classes, splits, copies, files that are no images."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from classifier.data.copies import find_copies
from classifier.data.datasets import ImageDataset, class_names_of, sample_name, targets_of
from classifier.data.decoding import BadImageError
from classifier.data.rules import DATA, DATASETS, TASKS, Rules
from classifier.data.splitting import Classes, balanced_part, fold_of, hold_out, joined_groups
from classifier.errors import ConfigError

log = logging.getLogger(__name__)


_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class Members:
    """The images of one stage.

    Args:
        source: Their data set.
        indices: Their positions in it.
        targets: A class index per image, or a tuple of them; -1 where the truth is not known.
        skipped: Files that are no images -> why, by position in the source.
    """

    source: Any
    indices: list[int]
    targets: list[Any]
    skipped: Mapping[int, str] = field(default_factory=dict)


class Selection:
    """Chooses the images of every stage from the data sets that the user names.

    Args:
        datasets: train, val, test and predict, as far as they are given.
        rules: How to choose.
        class_names: Those of a checkpoint; None takes them from the rules, else from train.
        task: multiclass or multilabel; None is what the data is.

    Raises:
        ConfigError: no data for a stage, too few classes, classes that train lacks, or a split
            that cannot be made.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        rules: Rules,
        class_names: Sequence[str] | None = None,
        task: str | None = None,
    ) -> None:
        self.datasets = datasets
        self.rules = rules
        self._class_names = list(class_names) if class_names else None
        self._task = task
        self._parts: dict[str, list[int]] | None = None
        self._bad: dict[int, dict[int, str]] = {}
        self._members: dict[str, Members] = {}
        self._targets: dict[str, list[Any]] = {}

    # Classes

    @property
    def task(self) -> str:
        """The task: multiclass or multilabel."""
        if self._task is None:
            source = self.source("train") if self.datasets.get("train") is not None else None
            self._task = TASKS[bool(getattr(source, "is_multilabel", False))]
        return self._task

    @property
    def class_names(self) -> list[str]:
        """Of a checkpoint, of the configuration, or of the training data, in that order."""
        if self._class_names is None:
            key = f"{DATASETS}.train"
            names = self.rules.class_names or class_names_of(self.source("train"), key)
            self._class_names = list(names)
            if self.task == "multilabel" and any("|" in name for name in self._class_names):
                raise ConfigError(
                    key, "several labels are written with | between them: no name may hold one",
                    got=next(name for name in self._class_names if "|" in name),
                    remedy="Rename the class",
                )  # fmt: skip
            if len(_SPLIT_NAMES & set(self._class_names)) > 1:
                log.warning(
                    "the classes are called %s: is %s one folder too high?",
                    ", ".join(self._class_names), f"{key}.init_args.root",
                )  # fmt: skip
            if len(self._class_names) < (1 if self.task == "multilabel" else 2):
                raise ConfigError(
                    key, "needs at least two classes", got=self._class_names,
                    remedy="Put the images into one sub-folder per class",
                )  # fmt: skip
        return self._class_names

    def source(self, name: str) -> Any:
        """The data set of a stage, scanned."""
        dataset = self.datasets.get(name)
        if dataset is None:
            raise ConfigError(
                f"{DATASETS}.{name}", "is not configured", got=None,
                remedy=f"Add --{DATASETS}.{name} "
                "'{class_path: FolderImageDataset, init_args: {root: FOLDER}}'",
            )  # fmt: skip
        try:
            len(dataset)
        except ConfigError as error:
            if error.key.startswith("-") or "." in error.key:
                raise
            raise error.at(f"{DATASETS}.{name}.init_args.{error.key}") from error
        return dataset

    def targets(self, name: str) -> list[Any]:
        """Per image of a data set its class index, or a tuple of them, in the run's class list."""
        if name not in self._targets:
            self._targets[name] = self._map_targets(name)
        return self._targets[name]

    def _map_targets(self, name: str) -> list[Any]:
        dataset = self.source(name)
        key = f"{DATASETS}.{name}"
        own = class_names_of(dataset, key)
        names = self.class_names
        several = bool(getattr(dataset, "is_multilabel", False))
        if several and self.task == "multiclass":
            raise ConfigError(
                "model.init_args.task", f"{key} has images with several labels", got=self.task,
                remedy="Write multilabel",
            )  # fmt: skip
        places = {label: place for place, label in enumerate(names)}
        given = targets_of(dataset, key)
        occurring = {n for target in given for n in _as_tuple(target) if n >= 0}
        present = [own[n] for n in sorted(occurring)]
        unknown = [label for label in present if label not in places]
        if unknown and name == "train":
            raise ConfigError(
                f"{DATA}.class_names", f"lacks classes that {key} has: {', '.join(unknown)}",
                got=names, remedy="Add them, or write null",
            )  # fmt: skip
        if unknown:
            raise ConfigError(
                key, f"has classes that training does not have: {', '.join(unknown)}; "
                f"training has {', '.join(names)}",
                remedy="Use the same class folders everywhere",
            )  # fmt: skip
        missing = sorted(set(names) - set(present), key=lambda label: places[label])
        if missing:
            log.warning("%s has no images of: %s", key, ", ".join(missing))
        without = [
            i for i, target in enumerate(given) if not isinstance(target, tuple) and target < 0
        ]
        if without:
            raise ConfigError(
                key, f"has {len(without)} image{'s' * (len(without) > 1)} without a class",
                got=_described(dataset, without[0]),
                remedy="Move every image into the folder of its class, or fill in its label; a "
                "table of images with several labels, or none, needs a delimiter",
            )  # fmt: skip
        index = [places.get(label, -1) for label in own]
        mapped = [tuple(index[n] for n in _as_tuple(target)) for target in given]
        return mapped if self.task == "multilabel" else [target[0] for target in mapped]

    # Members

    def is_held_out(self, name: str) -> bool:
        """Whether a stage's images are a part of train."""
        return self.datasets.get(name) is None and self.rules.hold_out(name)

    def members(self, name: str) -> Members:
        """The images of a stage: train, val, test or predict."""
        if name not in self._members:
            self._members[name] = self._choose(name)
        return self._members[name]

    def _choose(self, name: str) -> Members:
        if name == "predict":
            source = self.source("predict")
            return Members(source, list(range(len(source))), [-1] * len(source))
        origin = "train" if self.is_held_out(name) else name
        targets = self.targets(origin)
        source = self.source(origin)
        indices = list(range(len(targets)))
        if origin == "train":
            indices = self._split(targets)[name]
        if self.is_held_out(name):
            self._tell_missing(name, [targets[index] for index in indices])
        skipped = self._unreadable(source, indices)
        indices = [index for index in indices if index not in skipped]
        if name == "train" and self.rules.max_samples is not None:
            if self.rules.max_samples < len(self.class_names):
                raise ConfigError(
                    f"{DATA}.max_samples", f"is fewer than the {len(self.class_names)} classes",
                    got=self.rules.max_samples, remedy="Write a larger number",
                )  # fmt: skip
            names = [sample_name(source, index) for index in indices]
            kinds = [_as_tuple(targets[index]) for index in indices]
            part = balanced_part(names, kinds, self.rules.max_samples, self.rules.seed)
            indices = [indices[place] for place in part]
        if not indices:
            raise ConfigError(
                f"{DATASETS}.{origin}", f"leaves no images for {name}",
                remedy="Groups, and copies of one image, stay on one side: see group_pattern and "
                "group_duplicates" if self.is_held_out(name) else "",
            )  # fmt: skip
        return Members(source, indices, [targets[index] for index in indices], skipped)

    def _tell_missing(self, name: str, targets: Sequence[Any]) -> None:
        counts = class_counts(targets, len(self.class_names))
        missing = [label for label, n in zip(self.class_names, counts, strict=True) if not n]
        if missing:
            log.warning(
                "%s, which is held out of train, has no images of: %s", name, ", ".join(missing)
            )

    def _split(self, targets: Sequence[Any]) -> dict[str, list[int]]:
        """The positions of train's images in train, val and test."""
        if self._parts is not None:
            return self._parts
        rules, parts = self.rules, {"train": list(range(len(targets)))}
        if self.is_held_out("val") or self.is_held_out("test"):
            source = self.source("train")
            names = [sample_name(source, index) for index in range(len(targets))]
            groups = self._groups(source, names)
            classes = [_as_tuple(target) for target in targets]
            if self.is_held_out("test"):
                self._divide(parts, "test", (names, classes, groups), rules.test_fraction)
            if self.is_held_out("val"):
                rest = rules.val_fraction / (1.0 - rules.test_fraction * self.is_held_out("test"))
                self._divide(parts, "val", (names, classes, groups), rest)
        self._parts = parts
        return parts

    def _divide(
        self,
        parts: dict[str, list[int]],
        name: str,
        samples: tuple[list[str], list[Classes], list[str]],
        fraction: float,
    ) -> None:
        """Move a part of train into another stage."""
        rules, left = self.rules, parts["train"]
        names = [samples[0][index] for index in left]
        classes = [samples[1][index] for index in left]
        groups = [samples[2][index] for index in left]
        if name == "val" and rules.folds is not None:
            log.info("val is fold %d of %d, counted from 0", rules.fold, rules.folds)
            try:
                kept, held = fold_of(classes, groups, rules.folds, rules.fold, rules.seed)
            except ValueError as error:
                raise ConfigError(
                    f"{DATA}.folds", f"the data cannot be divided so ({error})", got=rules.folds,
                    remedy="Write a smaller number",
                ) from error  # fmt: skip
        else:
            seed = rules.seed if name == "val" else f"{rules.seed}/test"
            kept, held = hold_out(names, classes, groups, fraction, seed)
        parts["train"] = [left[place] for place in kept]
        parts[name] = [left[place] for place in held]

    def _groups(self, source: Any, names: list[str]) -> list[str]:
        rules = self.rules
        own: list[str | None] = [None] * len(names)
        matched: list[str | None] = [None] * len(names)
        copies: list[bytes | None] = [None] * len(names)
        if isinstance(source, ImageDataset):
            own = [sample.group for sample in source.samples]
            if rules.group_duplicates and source.finds_copies:
                (copies,) = find_copies([source], rules.num_threads)
                twins = [found for found in copies if found is not None]
                if twins:
                    log.info(
                        "%d images are there more than once (%d files); copies stay together",
                        len(set(twins)), len(twins),
                    )  # fmt: skip
        if rules.group_pattern is not None:
            matched = [_matched(rules.group_pattern, name) for name in names]
            if not any(matched):
                raise ConfigError(
                    f"{DATA}.group_pattern", f"matches no path, such as {names[0]}",
                    got=rules.group_pattern,
                )  # fmt: skip
        return joined_groups(names, own, matched, copies)

    def tell_leaks(self) -> None:
        """Warn of images of a given val that train has too: its score would be too good."""
        train, source = self.source("train"), self.source("val")
        able = all(isinstance(d, ImageDataset) and d.finds_copies for d in (train, source))
        if not able or not self.rules.group_duplicates:
            return
        own, other = find_copies([train, source], self.rules.num_threads)
        trained = {print_ for print_ in own if print_ is not None}
        leaks = [index for index, print_ in enumerate(other) if print_ in trained]
        if leaks:
            log.warning(
                "%d of %d images of %s.val are in train too, for example %s: the validation score "
                "is too good by them", len(leaks), len(source), DATASETS, source.describe(leaks[0]),
            )  # fmt: skip

    # Files that are no images

    def _unreadable(self, source: Any, indices: Sequence[int]) -> dict[int, str]:
        """Positions of files that cannot be decoded -> why, where they are to be skipped."""
        if self.rules.on_bad_image != "skip" or not isinstance(source, ImageDataset):
            return {}
        known = self._bad.setdefault(id(source), {})
        missing = [index for index in indices if index not in known]
        with ThreadPoolExecutor(self.rules.num_threads) as pool:
            reasons = pool.map(lambda index: reason_against(source, index), missing)
            known.update(zip(missing, reasons, strict=True))
        bad = {index: known[index] for index in indices if known[index]}
        if bad:
            shown = "; ".join(f"{source.describe(i)}: {why}" for i, why in list(bad.items())[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            log.warning("skipped %d of %d images: %s%s", len(bad), len(indices), shown, more)
        return bad


def reason_against(dataset: ImageDataset, index: int) -> str:
    """Why an image cannot be used; empty when it can."""
    try:
        dataset.load(index)
    except FileNotFoundError:
        return "no such file"
    except BadImageError as error:
        return str(error)
    return ""


def class_counts(targets: Sequence[Any], num_classes: int) -> list[int]:
    """Images of each class."""
    counts = Counter(name for target in targets for name in _as_tuple(target))
    return [counts[index] for index in range(num_classes)]


def _described(dataset: Any, index: int) -> str:
    describe = getattr(dataset, "describe", str)
    return str(describe(index))


def _as_tuple(target: Any) -> Classes:
    return target if isinstance(target, tuple) else (target,)


def _matched(pattern: str, name: str) -> str | None:
    """The first group of the match, the whole match without groups, None without a match."""
    match = re.search(pattern, name)
    return None if match is None else match[match.re.groups and 1]
