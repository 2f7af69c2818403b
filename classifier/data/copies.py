"""Which images are exact copies of each other, found without reading most of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from classifier.data.datasets import ImageDataset

_TAIL_BYTES = 2048


def find_copies(datasets: Sequence[ImageDataset], num_threads: int) -> list[list[bytes | None]]:
    """The fingerprint of every sample that has an exact copy, in its data set or in another one.

    Files of a length, or an end, that no other file has are alone, and are not read.

    Args:
        datasets: Whose samples are compared.
        num_threads: That read, at least 1.

    Returns:
        Per data set and sample 16 bytes, equal for equal content; None where it has no copy.
    """
    items = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    candidates: Sequence[int] = range(len(items))
    with ThreadPoolExecutor(num_threads) as pool:
        files = [file for dataset, index in items if (file := dataset.file(index)) is not None]
        if len(files) == len(items):
            lengths = dict(zip(candidates, pool.map(_length, files), strict=True))
            candidates = _shared(lengths)
            tails = pool.map(lambda place: _tail(files[place]), candidates)
            candidates = _shared(dict(zip(candidates, tails, strict=True)))
        prints = pool.map(lambda place: _fingerprint(*items[place]), candidates)
        content = {i: print_ for i, print_ in zip(candidates, prints, strict=True) if print_}
    shared = set(_shared(content))
    found = iter([content[i] if i in shared else None for i in range(len(items))])
    return [list(islice(found, len(dataset))) for dataset in datasets]


def _shared(values: Mapping[int, Hashable]) -> list[int]:
    """The keys whose value another key has too."""
    counts = Counter(values.values())
    return [key for key, value in values.items() if counts[value] > 1]


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


def _fingerprint(dataset: ImageDataset, index: int) -> bytes | None:
    try:
        return dataset.fingerprint(index)
    except OSError:
        return None  # decoding will tell
