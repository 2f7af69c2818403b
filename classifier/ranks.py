"""The processes of a distributed training: which one this is, and what they tell the first."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from classifier.files import write_text
from classifier.runs import RUN_DIR_VARIABLE, trial_folder

_ERRORS = ".rank_{}.txt"
_CHECKPOINT_VARIABLE = "CLASSIFIER_RESUMED"


def is_first() -> bool:
    """Whether this process is the one that writes and speaks: the only one, or rank zero.

    As far as the environment says, which Lightning and torchrun set for the processes that they
    start. Before torch is imported nothing else is known.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    return not any(int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "NODE_RANK"))


def set_rank(rank: int) -> None:
    """Take over which process this is from a trainer, which also knows SLURM and its like.

    Args:
        rank: Among all processes of the training.
    """
    if rank > 0:
        os.environ["RANK"] = str(rank)


def started_by_first() -> bool:
    """Whether rank zero started this process: it then tells what this one has to say."""
    return not is_first() and _folder() is not None


def exit_with_first() -> None:
    """End this process when the one that started it is gone, however that one ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-first", daemon=True).start()


def tell_checkpoint(file: Path | None) -> None:
    """Let the processes that this one starts resume what it resumes.

    Args:
        file: What `ckpt_path: last` has found; None for nothing.
    """
    os.environ[_CHECKPOINT_VARIABLE] = str(file or "")


def told_checkpoint() -> Path | None:
    """What the first process resumes; None when it starts fresh."""
    told = os.environ.get(_CHECKPOINT_VARIABLE)
    return Path(told) if told else None


def leave_error(text: str) -> None:
    """Say why this process fails, where rank zero finds it.

    Args:
        text: The message.
    """
    folder = _folder()
    if folder is not None and folder.is_dir():
        write_text(folder / _ERRORS.format(os.environ.get("LOCAL_RANK", "0")), text)


def take_errors(folder: Path) -> str:
    """What the other processes left, as one text; it is removed. Empty without any.

    Args:
        folder: The run folder.
    """
    words = []
    for file in sorted(folder.glob(_ERRORS.format("*"))):
        number = file.stem.rpartition("_")[2]
        words.append(f"process {number}: {file.read_text(encoding='utf-8')}")
        file.unlink()
    return "\n".join(words)


def _folder() -> Path | None:
    given = os.environ.get(RUN_DIR_VARIABLE)
    return Path(given) if given else trial_folder()
