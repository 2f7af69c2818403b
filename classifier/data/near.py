"""Near duplicates: images that look the same though their bytes differ. Needs imagehash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from classifier.data.splitting import least_tied

NEAR_DISTANCE = 4  # of the 64 bits of a perceptual hash; re-encoded and rescaled copies stay below
_LIBRARY = "imagehash"
_CELLS = 5_000_000  # of the distance matrix at a time, 9 bytes each
_FEW = 20_000  # hashes up to which all are compared with all
_FAR = 65
_PLACE_BITS = 40  # beside a distance in one number, so that of equally near ones the first counts


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
        nearest = np.full(len(hashes), _FAR << _PLACE_BITS, dtype=np.int64)
        for rows, columns in _candidates(hashes, np.flatnonzero(kinds == kind)):
            step = max(1, _CELLS // len(columns))
            for start in range(0, len(rows), step):
                block = rows[start : start + step]
                distances = np.bitwise_count(hashes[block, None] ^ hashes[columns])
                distances[block[:, None] == columns] = _FAR  # not itself
                found = distances.argmin(axis=1)
                least = distances[np.arange(len(block)), found].astype(np.int64)
                told = (least << _PLACE_BITS) + columns[found]
                nearest[block] = np.minimum(nearest[block], told)
        near = np.flatnonzero(nearest >> _PLACE_BITS <= NEAR_DISTANCE)
        places = nearest[near] & ((1 << _PLACE_BITS) - 1)
        yield from zip(near.tolist(), places.tolist(), strict=True)


def _candidates(
    hashes: NDArray[np.uint64], places: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Parts of all places, and of those of a kind, in which any that are near have each other.

    Few are compared with all. Of many, hashes that differ in no more bits than they have bands but
    one are equal in one of the bands; only those are compared.

    Source: Norouzi, Punjani and Fleet, Fast search in Hamming space with multi-index hashing, 2012.
    """
    if len(hashes) <= _FEW:
        yield np.arange(len(hashes)), places
        return
    edges = np.linspace(0, 64, NEAR_DISTANCE + 2).astype(int).tolist()
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        own = places[np.argsort(band[places], kind="stable")]
        values = np.unique(band[own])
        ends = [
            np.searchsorted(band[part], values, side=side).tolist()
            for part in (order, own)
            for side in ("left", "right")
        ]
        for first, last, own_first, own_last in zip(*ends, strict=True):
            yield order[first:last], own[own_first:own_last]
