"""Which images are exact copies of each other, found without reading most of them."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from classifier.data.datasets import ImageDataset, file_of
from classifier.data.portions import in_portions

_TAIL_BYTES = 2048
_GONE, _NO_FILE = -1, -2  # instead of a length


def find_copies(datasets: Sequence[ImageDataset], num_threads: int) -> list[list[bytes | None]]:
    """The fingerprint of every sample that has an exact copy, in its data set or in another one.

    Files of a length, or an end, that no other file has are alone, and are not read.

    Args:
        datasets: Whose samples are compared.
        num_threads: That read, at least 1.

    Returns:
        Per data set and sample 16 bytes, equal for equal content; None where it has no copy.
    """
    starts = list(accumulate((len(dataset) for dataset in datasets), initial=0))
    number = starts[-1]

    def sample(place: int) -> tuple[ImageDataset, int]:
        which = bisect_right(starts, place) - 1
        return datasets[which], place - starts[which]

    candidates: Sequence[int] = range(number)
    with ThreadPoolExecutor(num_threads) as pool:
        lengths = in_portions(pool, lambda place: _length(file_of(*sample(place))), candidates)
        found = np.fromiter(lengths, np.int64, number)
        if not (found == _NO_FILE).any():
            candidates = _shared(found).tolist()
            tails = in_portions(pool, lambda place: _tail(file_of(*sample(place))), candidates)
            again = _shared(np.fromiter(tails, np.int64, len(candidates)))
            candidates = [candidates[place] for place in again]
        prints = in_portions(pool, lambda place: _fingerprint(*sample(place)), candidates)
        content = {i: print_ for i, print_ in zip(candidates, prints, strict=True) if print_}
    often = Counter(content.values())
    copies = (p if (p := content.get(i)) and often[p] > 1 else None for i in range(number))
    return [list(islice(copies, len(dataset))) for dataset in datasets]


def _shared(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places whose value another place has too."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[group] > 1)


def _length(file: str | None) -> int:
    if file is None:
        return _NO_FILE
    try:
        return os.stat(file).st_size
    except OSError:
        return _GONE  # decoding will tell


def _tail(file: str | None) -> int:
    """A hash of a file's length and end: what is alike by chance is told apart by its content."""
    assert file is not None
    try:
        with open(file, "rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - _TAIL_BYTES))
            told = length.to_bytes(8) + stream.read()
    except OSError:
        return _GONE
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), signed=True)


def _fingerprint(dataset: ImageDataset, index: int) -> bytes | None:
    try:
        return dataset.fingerprint(index)
    except OSError:
        return None  # decoding will tell
