"""Folds and repetitions that were begun before: which folder `ckpt_path` means."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.arguments import Command
from classifier.errors import ConfigError
from classifier.repeating.parts import FOLDS
from classifier.runs import RUNS, slug

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Earlier:
    """What was begun before, and is gone on with.

    Args:
        folder: Of the whole.
        number: Of folds, or seeds, that were asked for.
    """

    folder: Path
    number: int


def find_earlier(
    tree: Mapping[str, Any], command: Command, mode: str, experiment: str
) -> Earlier | None:
    """What `ckpt_path` says to go on with; None where all begins anew.

    Args:
        tree: The configuration.
        command: Its checkpoint wins.
        mode: folds or repeat.
        experiment: Its newest unfinished folder is what `last` means.

    Raises:
        ConfigError: the path is no such folder, or one of another number of folds.
    """
    path = command.ckpt_path or tree.get("ckpt_path")
    if path is None:
        return None
    if path == "last":
        return _newest_unfinished(experiment, mode)
    found = _read(Path(path), mode)
    if found is None and tree.get("only_weights_load"):
        return None  # every training begins with its weights
    if found is None:
        raise ConfigError(
            "ckpt_path", f"is no folder that --{mode} has left", got=str(path),
            remedy="Leave it out, or add only_weights_load: true to begin every training "
            "from its weights",
        )  # fmt: skip
    if mode == FOLDS and found.number != command.folds:
        raise ConfigError(
            "--folds", f"the folder {path} is one of {found.number} folds", got=command.folds,
            remedy=f"Write {found.number}",
        )  # fmt: skip
    return found


def _newest_unfinished(experiment: str, mode: str) -> Earlier | None:
    folders = sorted((RUNS / slug(experiment)).glob("????-??-??_??-??-??"), reverse=True)
    for folder in folders:
        found = _read(folder, mode, unfinished=True)
        if found is not None:
            log.info("ckpt_path: last: going on with %s", folder.as_posix())
            return found
    log.info("ckpt_path: last: nothing unfinished of %s, starting fresh", experiment)
    return None


def _read(folder: Path, mode: str, *, unfinished: bool = False) -> Earlier | None:
    """What a folder's result.json says, where it is one of this mode."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("mode") != mode:
        return None
    if unfinished and result.get("status") == "completed":
        return None
    return Earlier(folder, int(result["num_parts"]))
