"""Stratified, seeded splits that stay as they are when files are added elsewhere."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def stratified_split(
    names: Sequence[str], targets: Sequence[int], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out a fraction of every class.

    Within a class the images are ranked by a hash of their name and the seed, and the first are
    held out. So the split does not depend on the order of the files, on other classes, or on the
    machine; a new file moves at most one image of its own class across.

    Args:
        names: One stable name per sample, such as its relative path.
        targets: One class index per sample.
        fraction: Part to hold out, in (0, 1). At least one image of every class with two or more
            goes to either side; a class with one image stays in training.
        seed: Another seed is another split.

    Returns:
        Indices to keep and indices to hold out, both sorted.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, target in enumerate(targets):
        members[target].append(index)
    held_out: set[int] = set()
    for indices in members.values():
        ranked = sorted(indices, key=lambda index: _rank(names[index], seed))
        number = round(len(ranked) * fraction)
        number = min(max(number, 1), len(ranked) - 1) if len(ranked) > 1 else 0
        held_out.update(ranked[:number])
    kept = [index for index in range(len(targets)) if index not in held_out]
    return kept, sorted(held_out)


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
