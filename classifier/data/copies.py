"""Which images are exact copies of each other, found without reading most of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from classifier.data.decoding import BadImageError

_TAIL_BYTES = 2048


def find_copies(dataset: Any, num_threads: int) -> list[bytes | None]:
    """The fingerprint of every sample that has an exact copy.

    Files of a length, or an end, that no other file has are alone, and are not read.

    Args:
        dataset: An ImageDataset.
        num_threads: That read.

    Returns:
        Per sample 16 bytes, equal for equal content; None where it has no copy.
    """
    found: list[bytes | None] = [None] * len(dataset)
    candidates: Sequence[int] = range(len(dataset))
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        if len(dataset) and dataset.file(0) is not None:
            files = {index: Path(dataset.file(index)) for index in candidates}
            candidates = _shared(dict(zip(files, pool.map(_length, files.values()), strict=True)))
            tails = pool.map(lambda index: _tail(files[index]), candidates)
            candidates = _shared(dict(zip(candidates, tails, strict=True)))
        prints = pool.map(lambda index: _fingerprint(dataset, index), candidates)
        content = {i: print_ for i, print_ in zip(candidates, prints, strict=True) if print_}
    for index in _shared(content):
        found[index] = content[index]
    return found


def _shared(values: Mapping[int, Hashable]) -> list[int]:
    """The keys whose value another key has too."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for key, value in values.items():
        members[value].append(key)
    groups: Iterable[list[int]] = members.values()
    return sorted(key for keys in groups if len(keys) > 1 for key in keys)


def _length(file: Path) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return -1  # gone: decoding will tell


def _tail(file: Path) -> tuple[int, bytes]:
    try:
        with open(file, "rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - _TAIL_BYTES))
            return length, stream.read()
    except OSError:
        return -1, b""


def _fingerprint(dataset: Any, index: int) -> bytes | None:
    try:
        found: bytes = dataset.fingerprint(index)
    except (BadImageError, OSError):
        return None  # decoding will tell
    return found
