"""What a training chose by measuring, and how others that are compared with it take it over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.config import read_config
from classifier.trees import lookup, override

AUTO = "auto"
PRECISION = "trainer.precision"
CHANNELS_LAST = "model.init_args.channels_last"
WORKERS = "data.init_args.num_workers"
MEASURED = (PRECISION, CHANNELS_LAST, WORKERS)
CONFIG = "config.yaml"  # of a run folder; resolved as soon as the training has begun


def is_open(value: Any) -> bool:
    """Whether such a value of these keys is left to be measured."""
    return value is None or value == AUTO


def left_open(tree: Mapping[str, Any]) -> list[str]:
    """The keys that a training by a configuration measures."""
    return [key for key in MEASURED if is_open(lookup(tree, key))]


def as_measured(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration, with what a training chose in the places that the configuration leaves open.

    Measured anew, another precision may come out, on another machine above all: the numbers would
    be others.

    Args:
        tree: The configuration; what the user wrote in it stays.
        folder: The run folder of the training. Without one, or before it has chosen, nothing
            changes.
    """
    own = copy.deepcopy(dict(tree))
    left, file = left_open(own), folder / CONFIG
    if not left or not file.is_file():
        return own
    saved = read_config(file)
    for key in left:
        value = lookup(saved, key)
        if not is_open(value):
            override(own, key, value)
    return own
