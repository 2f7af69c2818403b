"""Checkpoints: read as data, without Lightning, and carried over to the run that resumes them."""

from __future__ import annotations

import logging
import pickle
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifier.errors import ConfigError
from classifier.files import copy_whole, link_or_copy
from classifier.runs import BEST, LAST

log = logging.getLogger(__name__)

# What a checkpoint holds besides Lightning's own keys.
CONFIG_KEY = "config"
RANDOM_STATE_KEY = "random_state"
FOLDER_KEY = "checkpoints_folder"
RANKS_KEY = "num_ranks"


# A checkpoint callback's state before its first save.
_NOTHING_SAVED: dict[str, Any] = {
    "best_model_score": None,
    "current_score": None,
    "best_model_path": "",
    "best_k_models": {},
    "kth_best_model_path": "",
    "kth_value": None,
    "last_model_path": "",
}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this program: tensors and plain data only, no code.

    Args:
        path: The file.

    Returns:
        The checkpoint, all tensors on the CPU.

    Raises:
        ConfigError: truncated, empty, of another program, or holding anything but data.
    """
    if not zipfile.is_zipfile(path):
        raise _unreadable(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _no_checkpoint(path) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise _unreadable(path) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ConfigError(
            "ckpt_path", "the file is a checkpoint of another program", got=str(path),
            remedy="Give a .ckpt file that this program wrote; weights of other programs "
            "load by model_name from a folder",
        )  # fmt: skip
    if not isinstance(checkpoint.get(CONFIG_KEY), dict):
        raise ConfigError(
            "ckpt_path", "the checkpoint holds no configuration, as one of a plain Trainer",
            got=str(path), remedy="Load it in Python: ImageClassifier.load_from_checkpoint(path)",
        )  # fmt: skip
    return checkpoint


def check_same_batches(checkpoint: Mapping[str, Any], now: int | None, num_ranks: int = 1) -> None:
    """Refuse to go on within an epoch with steps of another size: images would be left out.

    Two processes with batches of 8 take the same steps as one with 16, so they may take over from
    each other.

    Args:
        checkpoint: What the training resumes.
        now: The batch size of the data module; None where it has none.
        num_ranks: Processes that train together, each with batches of this size.

    Raises:
        ConfigError: with both sizes.
    """
    saved = (checkpoint[CONFIG_KEY].get("data") or {}).get("init_args") or {}
    before = saved.get("batch_size")
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    within = progress["current"]["ready"] > 0 and not progress.get("is_last_batch")
    if not within or before is None or now is None:
        return
    ranks_before = int(checkpoint.get(RANKS_KEY, 1))
    step = before * ranks_before
    if step != now * num_ranks:
        on = f" on each of {ranks_before} devices" if ranks_before > 1 else ""
        raise ConfigError(
            "data.init_args.batch_size", f"the checkpoint stopped in the middle of an epoch with "
            f"batches of {before}{on}", got=now,
            remedy=f"Write {step // num_ranks if step % num_ranks == 0 else before}"
            f"{f' with trainer.devices: {ranks_before}' if step % num_ranks else ''}"
            ", or only_weights_load: true for a new training",
        )  # fmt: skip


def check_unfinished(checkpoint: Mapping[str, Any] | None, epochs: int | None) -> None:
    """Refuse to go on with a training that has nothing left to do.

    Args:
        checkpoint: What is resumed; None for nothing.
        epochs: As the configuration has them; None or negative for no end.

    Raises:
        ConfigError: the checkpoint has trained as many.
    """
    if checkpoint is None or epochs is None or epochs < 0:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    done = checkpoint["epoch"] + bool(progress.get("is_last_batch"))
    if done >= epochs:
        raise ConfigError(
            "trainer.max_epochs", f"the checkpoint has trained {done} epochs already",
            got=epochs, remedy="Write a larger number to go on",
        )  # fmt: skip


def _unreadable(path: Path) -> ConfigError:
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"", b"PK"):
        return _no_checkpoint(path)
    return ConfigError(
        "ckpt_path", "the file is damaged" if start else "the file is empty", got=str(path),
        remedy="Use another checkpoint of the run, such as last.ckpt",
    )  # fmt: skip


def _no_checkpoint(path: Path) -> ConfigError:
    return ConfigError(
        "ckpt_path", "the file is no checkpoint, or holds code, which is never run",
        got=str(path), remedy="Give a .ckpt file that this program wrote",
    )  # fmt: skip


def carry_over(checkpoint: dict[str, Any], old: Path, new: Path) -> None:
    """Give a resumed run the checkpoints of the run before, and tell its callbacks of them.

    Without it Lightning forgets the best score so far, and the first epoch after a resume becomes
    the best one, however bad.

    Args:
        checkpoint: What is resumed; changed in place.
        old: The folder in which it lies now.
        new: The checkpoints folder of the run that resumes it.
    """
    new.mkdir(exist_ok=True)
    own_folder = checkpoint.get(FOLDER_KEY)
    for name, state in checkpoint.get("callbacks", {}).items():
        if not name.startswith("ModelCheckpoint") or state.get("dirpath") != own_folder:
            continue  # the user's own folder stays where it is
        files = [state["best_model_path"], *state["best_k_models"]]
        names = {Path(str(file)).name for file in files if file}
        missing = sorted(name for name in names if not (old / name).is_file())
        if missing:
            if state.get("monitor"):
                log.warning(
                    "%s is not beside the resumed checkpoint: the best of %s counts from here on",
                    ", ".join(missing), state["monitor"],
                )  # fmt: skip
            state |= {"dirpath": str(new), **_NOTHING_SAVED}
            continue
        _copy_all(names | ({BEST} if (old / BEST).is_file() else set()), old, new)
        _relocate(state, new)


def keep_last(resumed: Path, folder: Path) -> None:
    """Have a last.ckpt also where a resumed training had no epoch left to train.

    Args:
        resumed: The checkpoint that it went on from.
        folder: Its own checkpoints.
    """
    if not (folder / LAST).is_file():
        copy_whole(resumed, folder / LAST)


def _copy_all(names: set[str], old: Path, new: Path) -> None:
    """Copy files to another run; what is one file there is one file here."""
    copied: dict[tuple[int, int], Path] = {}
    for name in sorted(names):
        facts = (old / name).stat()
        first = copied.setdefault((facts.st_dev, facts.st_ino), new / name)
        if first == new / name:
            copy_whole(old / name, first)
        else:
            link_or_copy(first, new / name)


def _relocate(state: dict[str, Any], new: Path) -> None:
    state["dirpath"] = str(new)
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if state.get(key):
            state[key] = str(new / Path(state[key]).name)
    state["best_k_models"] = {
        str(new / Path(file).name): score for file, score in state["best_k_models"].items()
    }


def random_state() -> dict[str, Any]:
    """The state of every random number generator, as plain data and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
