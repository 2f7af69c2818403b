"""Checkpoints, written whole or not at all, and one of the same content once."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from classifier.errors import RunError
from classifier.files import link_or_copy, replacing

# Parts of a checkpoint that are large, and lie where the training has them: known by their place.
_LARGE = ("state_dict", "optimizer_states")
# What cannot change in place, so that the same object is the same content.
_CONSTANTS = (str, bytes, int, float, complex, type(None))


class _Place(NamedTuple):
    """Where a tensor lies, and how often it has been changed there."""

    address: int
    version: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]


class _Written(NamedTuple):
    """The file of the last checkpoint, and what was in it.

    Args:
        path: The file.
        state: Its inode, size and time, by which another file of this name is told.
        content: As `_content_of` gives it.
    """

    path: Path
    state: tuple[int, int, int]
    content: Any


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it: a kill leaves the old one.

    Lightning's own stages the file in the temporary folder, often another file system, where the
    move is a copy that a kill can cut short.

    An epoch that is the best so far is saved twice, as the best and as the last one. The second
    becomes a further name of the first file, so that the training waits for one of them alone.
    """

    def __init__(self) -> None:
        self._written: _Written | None = None
        self._is_readable = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            RunError: the disk is full, or may not be written; or a part of the checkpoint, as a
                callback's state, is of a kind that could not be read again.
        """
        if not self._is_readable:
            _check_readable(checkpoint)
            self._is_readable = True
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = _content_of(checkpoint)
        before, self._written = self._written, None
        try:
            if before is not None and _is_still(before) and _equal(before.content, content):
                link_or_copy(before.path, target)
            else:
                with replacing(target) as temporary:
                    torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            # torch's zip writer reports a full disk as a RuntimeError.
            raise RunError(
                f"the checkpoint {target} could not be written ({error}). "
                "Free disk space; the checkpoints before it are intact"
            ) from error
        self._written = _Written(target, _state_of(target), content)


def _check_readable(checkpoint: Mapping[str, Any]) -> None:
    """Refuse what `torch.load` takes for code: checkpoints are read with `weights_only`."""
    parts = {name: checkpoint[name] for name in checkpoint if name not in (*_LARGE, "callbacks")}
    for name, part in {**parts, **checkpoint.get("callbacks", {})}.items():
        stream = io.BytesIO()
        try:
            torch.save(part, stream)
            stream.seek(0)
            torch.load(stream, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            raise RunError(
                f"a checkpoint with what {name} gives could not be read again, as it holds more "
                "than data. Let its state_dict, or on_save_checkpoint, give tensors, numbers, "
                "text, and lists and mappings of these"
            ) from error


def _state_of(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_still(written: _Written) -> bool:
    """Whether a file is the one that was written."""
    return written.path.is_file() and _state_of(written.path) == written.state


def _content_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a checkpoint from another one of the same training, without copying the weights.

    Between two steps a training changes weights in place; the step's number and the random state,
    which are compared as they are, tell the rest.
    """
    return {key: _known(value, key in _LARGE) for key, value in checkpoint.items()}


def _known(value: Any, by_place: bool) -> Any:
    if isinstance(value, Tensor):
        # Tensors of inference mode do not count their changes.
        if by_place and not value.is_inference() and value.layout == torch.strided:
            return _Place(
                value.data_ptr(), value._version, tuple(value.shape), value.dtype, value.stride()
            )
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _known(item, by_place) for key, item in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, _Place):
        return [_known(item, by_place) for item in value]
    return value if isinstance(value, _CONSTANTS) else object()  # which equals nothing


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        # In their order, in which they are written.
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)
