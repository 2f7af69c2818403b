"""Near duplicates: images that look the same though their bytes differ. Needs imagehash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from classifier.data.splitting import least_tied

NEAR_DISTANCE = 4  # of the 64 bits of a perceptual hash; re-encoded and rescaled copies stay below
_LIBRARY = "imagehash"
_BLOCK = 512  # rows of the distance matrix at a time: 40 MB for 10,000 images


# Gives 64 bits of the pixels (H, W, 3) of an image.
Hasher = Callable[[NDArray[np.uint8]], int]


def perceptual_hasher() -> Hasher | None:
    """What gives an image's 64 bits that similar pictures share; None without imagehash."""
    if find_spec(_LIBRARY) is None:
        return None
    phash: Callable[[Image.Image], Any] = import_module(_LIBRARY).phash

    def hashed(pixels: NDArray[np.uint8]) -> int:
        bits = np.asarray(phash(Image.fromarray(pixels)).hash, dtype=bool)
        return int.from_bytes(np.packbits(bits).tobytes(), "big")

    return hashed


def groups_of(hashes: Sequence[int], kinds: Sequence[str]) -> list[list[int]]:
    """Images whose hashes differ in at most NEAR_DISTANCE bits.

    Every image is tied to the one of each kind that is most like it, so that all that have a near
    duplicate are in a group, also one of another kind, and memory stays proportional to the number
    of images.

    Args:
        hashes: 64 bits each.
        kinds: One for each hash, such as the split of its image.

    Returns:
        Groups of at least two places in `hashes`.
    """
    least = least_tied(_ties(np.array(hashes, dtype=np.uint64), np.array(kinds)))
    groups: dict[int, list[int]] = {}
    for item in range(len(hashes)):
        groups.setdefault(least(item), []).append(item)
    return [group for group in groups.values() if len(group) > 1]


def _ties(hashes: NDArray[np.uint64], kinds: NDArray[np.str_]) -> Iterator[tuple[int, int]]:
    """Each hash with the nearest one of each kind, when that is near enough."""
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK]
            distances = np.bitwise_count(block[:, None] ^ hashes[places][None, :])
            rows = np.arange(start, start + len(block))
            distances[rows[:, None] == places[None, :]] = 65  # not itself
            nearest = distances.argmin(axis=1)
            near = distances[rows - start, nearest] <= NEAR_DISTANCE
            yield from zip(rows[near].tolist(), places[nearest[near]].tolist(), strict=True)
