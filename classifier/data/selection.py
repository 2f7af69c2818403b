"""Which images each stage sees: splits, groups, copies, files that are no images."""

from __future__ import annotations

import logging
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from classifier.data.classes import RunClasses
from classifier.data.copies import find_copies
from classifier.data.datasets import ImageDataset, sample_name, scanned
from classifier.data.decoding import BadImageError
from classifier.data.portions import in_portions
from classifier.data.rules import DATA, DATASETS, Rules
from classifier.data.splitting import (
    Classes,
    balanced_part,
    classes_of,
    fold_of,
    hold_out,
    joined_groups,
)
from classifier.errors import ConfigError

log = logging.getLogger(__name__)


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
    indices: Sequence[int]
    targets: Sequence[Any]
    skipped: Mapping[int, str]


class Selection:
    """Chooses the images of every stage from the data sets that the user names.

    Args:
        datasets: train, val, test and predict, as far as they are given.
        rules: How to choose.
        classes: Of the run.
        seed: Of the splits.
        num_threads: That read files before the training, at least 1.

    Raises:
        ConfigError: no data for a stage, or a split that cannot be made.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        rules: Rules,
        classes: RunClasses,
        seed: int,
        num_threads: int,
    ) -> None:
        self.datasets = datasets
        self.rules = rules
        self.classes = classes
        self.seed = seed
        self.num_threads = num_threads
        self._members: dict[str, Members] = {}

    def is_held_out(self, stage: str) -> bool:
        """Whether a stage's images are a part of train."""
        return self.datasets.get(stage) is None and self.rules.holds_out(stage)

    def members(self, stage: str) -> Members:
        """The images of a stage: train, val, test or predict."""
        if stage not in self._members:
            self._members[stage] = self._choose(stage)
        return self._members[stage]

    def _choose(self, stage: str) -> Members:
        if stage == "predict":
            source = scanned(self.datasets, "predict")
            return Members(source, range(len(source)), [-1] * len(source), {})
        origin = "train" if self.is_held_out(stage) else stage
        targets = self.classes.targets(origin)
        source = self.datasets[origin]
        indices = self._parts[stage] if origin == "train" else range(len(targets))
        if self.is_held_out(stage):
            self._tell_missing(stage, [targets[index] for index in indices])
        skipped = self._unreadable(source, indices)
        if skipped:
            indices = array("q", (index for index in indices if index not in skipped))
        if stage == "train" and self.rules.max_samples is not None:
            indices = self._even_part(self.rules.max_samples, indices, source, targets)
        if not indices:
            raise ConfigError(
                f"{DATASETS}.{origin}", f"leaves no images for {stage}",
                remedy="Groups, and copies of one image, stay on one side: see group_pattern and "
                "group_duplicates" if self.is_held_out(stage) else "",
            )  # fmt: skip
        return Members(source, indices, [targets[index] for index in indices], skipped)

    def _even_part(
        self, most: int, indices: Sequence[int], source: Any, targets: Sequence[Any]
    ) -> Sequence[int]:
        num_classes = len(self.classes.names)
        if most < num_classes:
            raise ConfigError(
                f"{DATA}.max_samples", f"is fewer than the {num_classes} classes", got=most,
                remedy="Write a larger number",
            )  # fmt: skip
        names = [sample_name(source, index) for index in indices]
        classes = [classes_of(targets[index]) for index in indices]
        chosen = balanced_part(names, classes, most, self.seed)
        return array("q", (indices[place] for place in chosen))

    def _tell_missing(self, stage: str, targets: Sequence[Any]) -> None:
        names = self.classes.names
        counts = class_counts(targets, len(names))
        missing = [label for label, n in zip(names, counts, strict=True) if not n]
        if missing:
            log.warning(
                "%s, which is held out of train, has no images of: %s", stage, ", ".join(missing)
            )

    # Parts of train

    @cached_property
    def _parts(self) -> dict[str, Sequence[int]]:
        """The positions of train's images in train, val and test."""
        targets = self.classes.targets("train")
        known = {target: classes_of(target) for target in set(targets)}
        classes = [known[target] for target in targets]
        parts: dict[str, Sequence[int]] = {"train": range(len(classes))}
        held_out = [stage for stage in ("test", "val") if self.is_held_out(stage)]
        if not held_out:
            return parts
        source = self.datasets["train"]
        groups = self._groups(source, [sample_name(source, index) for index in parts["train"]])
        for stage in held_out:
            left = parts["train"]
            kept, held = self._divide(
                stage, [classes[index] for index in left], [groups[index] for index in left]
            )
            parts["train"] = array("q", (left[place] for place in kept))
            parts[stage] = array("q", (left[place] for place in held))
        return parts

    def _divide(
        self, stage: str, classes: Sequence[Classes], groups: Sequence[str]
    ) -> tuple[list[int], list[int]]:
        """What is left of train, and what a stage gets of it."""
        rules = self.rules
        if stage == "test":
            return hold_out(classes, groups, rules.test_fraction, f"{self.seed}/test")
        if rules.folds is None:
            # A fraction of all images, of which test has taken its part.
            rest = 1.0 - rules.test_fraction * self.is_held_out("test")
            return hold_out(classes, groups, rules.val_fraction / rest, self.seed)
        log.info("val is fold %d of %d, counted from 0", rules.fold, rules.folds)
        if self.classes.task != "multilabel":
            self._check_folds(rules.folds, classes, groups)
        try:
            return fold_of(classes, groups, rules.folds, rules.fold, self.seed)
        except ValueError as error:
            raise ConfigError(
                f"{DATA}.folds", f"the data cannot be divided so ({error})", got=rules.folds,
                remedy="Write a smaller number",
            ) from error  # fmt: skip

    def _check_folds(self, folds: int, classes: Sequence[Classes], groups: Sequence[str]) -> None:
        """Refuse a class that not every fold could have an image of."""
        images = Counter(own[0] for own in classes)
        apart = Counter(
            name for name, _ in {(own[0], g) for own, g in zip(classes, groups, strict=True)}
        )
        few = [name for name in sorted(images) if apart[name] < folds]
        if few:
            name = min(few, key=lambda name: apart[name])
            problem = f"too few images of {self.classes.names[name]}: {images[name]}"
            if apart[name] < images[name]:
                problem += f" in {apart[name]} group{'s' * (apart[name] > 1)}"
            if few[1:]:
                problem += f", and of {len(few) - 1} other class{'es' * (len(few) > 2)}"
            raise ConfigError(
                f"{DATA}.folds", problem, got=folds,
                remedy=f"Write at most {apart[name]}" if apart[name] > 1
                else "Every fold needs an image of every class: add some, or leave the class out",
            )  # fmt: skip

    def _groups(self, source: Any, names: Sequence[str]) -> list[str]:
        """The group of every image of train."""
        rules = self.rules
        own: list[str | None] = [None] * len(names)
        matched: list[str | None] = [None] * len(names)
        copies: list[bytes | None] = [None] * len(names)
        if isinstance(source, ImageDataset):
            own = [sample.group for sample in source.samples]
            if rules.group_duplicates and source.finds_copies:
                copies = self._copies(source)
        if rules.group_pattern is not None:
            matched = [_matched(rules.group_pattern, name) for name in names]
            if not any(matched):
                raise ConfigError(
                    f"{DATA}.group_pattern", f"matches no path, such as {names[0]}",
                    got=rules.group_pattern,
                )  # fmt: skip
        # In this order, on which the groups' names depend, and on these the splits.
        return joined_groups(names, own, matched, copies)

    def _copies(self, source: ImageDataset) -> list[bytes | None]:
        (copies,) = find_copies([source], self.num_threads)
        twins = [found for found in copies if found is not None]
        if twins:
            log.info(
                "%d images are there more than once (%d files); copies stay together",
                len(set(twins)), len(twins),
            )  # fmt: skip
        return copies

    def tell_leaks(self) -> None:
        """Warn of images of a given val that train has too: its score would be too good."""
        train, source = (scanned(self.datasets, name) for name in ("train", "val"))
        able = all(isinstance(d, ImageDataset) and d.finds_copies for d in (train, source))
        if not able or not self.rules.group_duplicates:
            return
        own, other = find_copies([train, source], self.num_threads)
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
        with ThreadPoolExecutor(self.num_threads) as pool:
            reasons = in_portions(pool, lambda index: _reason_against(source, index), indices)
            bad = {index: why for index, why in zip(indices, reasons, strict=True) if why}
        if bad:
            shown = "; ".join(f"{source.describe(i)}: {why}" for i, why in list(bad.items())[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            log.warning("skipped %d of %d images: %s%s", len(bad), len(indices), shown, more)
        return bad


def _reason_against(dataset: ImageDataset, index: int) -> str:
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
    counts = Counter(name for target in targets for name in classes_of(target))
    return [counts[index] for index in range(num_classes)]


def _matched(pattern: str, name: str) -> str | None:
    """The first group of the match, the whole match without groups, None without a match."""
    match = re.search(pattern, name)
    return None if match is None else match[match.re.groups and 1]
