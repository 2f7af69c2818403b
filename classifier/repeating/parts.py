"""What several trainings consist of: their folders, and what sets each apart from the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.config import TRUSTED_PACKAGES, class_paths
from classifier.trees import lookup, override

FOLDS, REPEAT = "folds", "repeat"  # modes, as result.json names them
FOLD_KEY, FOLDS_KEY = "data.init_args.fold", "data.init_args.folds"
SEED_KEY = "seed_everything"
TRAINING, VALIDATION, TEST = "training", "validation", "test"  # names of steps
TABLES = {FOLDS: "folds.csv", REPEAT: "repeats.csv"}


@dataclass(frozen=True)
class Part:
    """One training of several.

    Args:
        kind: fold or seed: what `number` is, and a column of the table.
        number: The fold, counted from 0 as the data's key `fold`, or the seed.
        folder: Its run folder.
        overrides: Dotted key -> value: what the training differs in from the others.
    """

    kind: str
    number: int
    folder: Path
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"{self.kind} {self.number}"

    def config(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of this training.

        Args:
            tree: That of all.
        """
        own = copy.deepcopy(dict(tree))
        for key, value in self.overrides.items():
            override(own, key, value)
        return own


@dataclass(frozen=True)
class Step:
    """One command of several that make a part complete.

    Args:
        name: training, validation or test.
        words: Its command line, in which {config} is the part's configuration and {run} its folder.
    """

    name: str
    words: tuple[str, ...]

    def folder(self, part: Part) -> Path:
        """Its run folder: the part's own for the training."""
        return part.folder if self.name == TRAINING else part.folder / self.name

    @property
    def told(self) -> str:
        """Put before the reason of its failure."""
        return "" if self.name == TRAINING else f"{self.name}: "


def steps_of(tree: Mapping[str, Any], mode: str, allowed: Sequence[str]) -> list[Step]:
    """What is done for each part: train, predict the fold's own images, evaluate a test set.

    Args:
        tree: The configuration of all, resolved.
        mode: folds or repeat.
        allowed: Packages that a checkpoint may name; those of the configuration are trusted.
    """
    own = [path.partition(".")[0] for _, path in class_paths(tree) if "." in path]
    trusted = dict.fromkeys([*allowed, *(name for name in own if name not in TRUSTED_PACKAGES)])
    words = [word for name in trusted for word in ("--allow_module", name)]
    evaluating = ["--ckpt_path", "{run}", "--evaluation.report", "false", *words]
    evaluating += ["--evaluation.format", "csv"]  # which the tables of all are made of
    accelerator, devices = (lookup(tree, f"trainer.{key}") for key in ("accelerator", "devices"))
    if isinstance(accelerator, str):
        evaluating += ["--trainer.accelerator", accelerator]
    if isinstance(devices, list) and devices:
        evaluating += ["--trainer.devices", f"[{devices[0]}]"]  # an evaluation runs on one
    steps = [Step(TRAINING, ("--config", "{config}", *words))]
    if mode == FOLDS:
        steps.append(Step(VALIDATION, ("--val", *evaluating)))
    if has_test(tree):
        steps.append(Step(TEST, ("--test", *evaluating)))
    return steps


def has_test(tree: Mapping[str, Any]) -> bool:
    """Whether there are test images: of their own, or held out of train."""
    arguments = "data.init_args"
    given = lookup(tree, f"{arguments}.dataset_classes.test")
    return given is not None or bool(lookup(tree, f"{arguments}.test_fraction"))


def fold_parts(number: int, folder: Path) -> list[Part]:
    """A training for each fold.

    Args:
        number: Of folds.
        folder: Of the whole.
    """
    return [
        Part(
            "fold", fold, folder / "folds" / str(fold), {FOLDS_KEY: number, FOLD_KEY: fold}
        )
        for fold in range(number)
    ]  # fmt: skip


def seed_parts(number: int, folder: Path, first: int) -> list[Part]:
    """A training for each seed.

    Args:
        number: Of seeds.
        folder: Of the whole.
        first: The first seed; the others follow it.
    """
    return [
        Part("seed", seed, folder / "repeats" / f"seed_{seed}", {SEED_KEY: seed})
        for seed in range(first, first + number)
    ]


def val_of(tree: Mapping[str, Any]) -> Any:
    """The configuration's own validation set, or None."""
    return lookup(tree, "data.init_args.dataset_classes.val")


def names_of(parts: Sequence[Part]) -> str:
    """Several parts in a message: `folds 1, 3`."""
    if not parts:
        return "none"
    plural = "s" * (len(parts) > 1)
    return f"{parts[0].kind}{plural} {', '.join(str(part.number) for part in parts)}"
