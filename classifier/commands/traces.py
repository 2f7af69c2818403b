"""Two trainings, compared by the hashes of all that happened in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

Trace = list[dict[str, Any]]

# What is compared in every step -> its key in a trace, in the order in which they come about.
QUANTITIES = {
    "batch order": "indices",
    "augmented pixels": "pixels",
    "losses": "loss",
    "weights": "weights",
    "averaged weights": "averages",
}
INITIAL = "initial weights"
_UNSEEDED = "draws random numbers that seed_everything does not decide"
_REMEDIES = {
    INITIAL: f"The model {_UNSEEDED}, or its weights come from elsewhere",
    "batch order": f"The data set or its sampler {_UNSEEDED}, or the files have changed meanwhile",
    "augmented pixels": f"An augmentation or a data set {_UNSEEDED}",
    "losses": f"The model, its loss or its mixing {_UNSEEDED}",
}
_RESUME_REMEDY = "Something keeps a state that is not in the checkpoint"


@dataclass(frozen=True)
class Finding:
    """What became of one quantity in two trainings.

    Args:
        training: Which was compared with the first: repeated, or resumed; of a distributed one
            also in which process.
        quantity: initial weights, batch order, augmented pixels, losses, weights or averaged
            weights.
        num_steps: Optimizer steps over which it was compared; 0 of the initial weights.
        step: The first optimizer step, from 1, in which it differs; 0 at the beginning; None where
            it is identical.
        name: What differs first there: a parameter, or the path of an image; None where that is
            not known.
    """

    training: str
    quantity: str
    num_steps: int
    step: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        if self.step is None:
            over = f" over {self.num_steps} steps" if self.quantity != INITIAL else ""
            return f"{self.training}: {self.quantity} identical{over}"
        place = f" from step {self.step} on" if self.quantity != INITIAL else ""
        first = f", first in {self.name}" if self.name is not None else ""
        return f"{self.training}: {self.quantity} differ{first}{place}"

    @property
    def remedy(self) -> str:
        """Where to look."""
        if "resumed" in self.training:
            return _RESUME_REMEDY
        return _REMEDIES.get(self.quantity, "An operation of the model gives other bits every time")


def read_trace(file: Path) -> Trace:
    """What StepTrace wrote: the beginning, then a record for every batch."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def joined(before: Trace, after: Trace) -> Trace:
    """The trace of an interrupted training and of the one that went on with it.

    What the second began with takes the place of what the first ended with: a checkpoint that
    restores other weights shows there.

    Args:
        before: Of the interrupted training.
        after: Of the resumed one.
    """
    restored = {name: after[0][name] for name in ("weights", "averages") if name in after[0]}
    return [*before[:-1], {**before[-1], **restored}, *after[1:]]


def compare(
    training: str, first: Trace, other: Trace, path_of: Callable[[int], str] | None
) -> Iterator[Finding]:
    """Compare all quantities of two trainings.

    Args:
        training: What the other one is called.
        first: Its trace is taken for the right one.
        other: The other's.
        path_of: Of an image, by its position; None where images have no positions.
    """
    num_steps = first[-1]["step"]
    name = _first_name(first[0]["weights"], other[0]["weights"])
    yield Finding(training, INITIAL, 0, None if name is None else 0, name)
    for quantity, key in QUANTITIES.items():
        if key in first[-1] and first[-1][key] is not None:
            step, name = _divergence(first[1:], other[1:], key, path_of)
            yield Finding(training, quantity, num_steps, step, name)


def _divergence(
    first: Trace, other: Trace, key: str, path_of: Callable[[int], str] | None
) -> tuple[int | None, str | None]:
    """The first step in which a quantity differs, and what differs first there."""
    for mine, yours in zip_longest(first, other):
        if mine is None or yours is None:
            return (mine or yours)["step"], None  # one of the two has a batch more
        here, there = mine[key], yours.get(key)
        if here == there:
            continue
        if isinstance(here, dict):
            return mine["step"], _first_name(here, there or {})
        if key == "loss" or not isinstance(there, list):
            return mine["step"], None
        return mine["step"], _first_image(mine, here, there, path_of)
    return None, None


def _first_name(here: dict[str, str], there: dict[str, str]) -> str | None:
    """The first of the names whose values differ, in the order of the model."""
    return next((name for name in here | there if here.get(name) != there.get(name)), None)


def _first_image(
    record: dict[str, Any],
    here: Sequence[Any],
    there: Sequence[Any],
    path_of: Callable[[int], str] | None,
) -> str | None:
    indices = record.get("indices")
    if indices is None or path_of is None:
        return None
    pairs = enumerate(zip_longest(here, there))
    place = next(number for number, (mine, yours) in pairs if mine != yours)
    return path_of(indices[place]) if place < len(indices) else None
