"""Stratified, seeded splits that stay as they are when files are added elsewhere."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

# The classes of one sample: one index, several in multi-label data, none.
Classes = tuple[int, ...]
_Item = TypeVar("_Item", int, str)


def classes_of(target: int | Classes) -> Classes:
    """The classes of a target: a class index, or a tuple of them in multi-label data."""
    return target if isinstance(target, tuple) else (target,)


def hold_out(
    classes: Sequence[Classes], groups: Sequence[str], fraction: float, seed: int | str
) -> tuple[list[int], list[int]]:
    """Hold out a fraction of every class, whole groups only.

    Groups are ranked by a hash of their name and the seed, and those that are needed are held out
    in that order. So the split does not depend on the order of the files, on the machine, or on
    other classes; a new file moves at most one group of its own class across.

    Args:
        classes: Class indices of every sample.
        groups: The group of every sample; a sample alone is a group of its own name.
        fraction: Part to hold out, in (0, 1). At least one group of every class with two or more
            goes to either side, where whole groups allow it; a class with one stays.
        seed: Another seed is another split.

    Returns:
        Indices to keep and indices to hold out, both sorted.
    """
    parts = _Groups(classes, groups, seed)
    remaining = _count(classes, range(len(classes)))
    needed = {
        name: min(max(round(number * fraction), 1), number - 1)
        for name, number in remaining.items()
    }
    missing = sum(needed.values())
    held: list[int] = []
    for group in parts.ranked():
        if not missing:
            break
        own = parts.count(group)
        # Most of the group is needed, and every class of it keeps something.
        useful = sum(min(number, needed[name]) for name, number in own.items())
        if 2 * useful > sum(own.values()) and all(remaining[n] > own[n] for n in own):
            held.append(group)
            missing -= useful
            for name, number in own.items():
                needed[name] = max(0, needed[name] - number)
                remaining[name] -= number
    held += _spared(parts, held, remaining)
    is_held = np.zeros(parts.number, dtype=bool)
    is_held[held] = True
    chosen = is_held[parts.of]
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()


def _spared(parts: _Groups, held: Sequence[int], remaining: Counter[int]) -> list[int]:
    """Of each class of which every group was too large, the smallest that can be spared.

    Args:
        parts: All groups.
        held: Those that are held out.
        remaining: Samples of each class that are not; changed in place.
    """
    covered = {name for group in held for name in parts.count(group)}
    more = []
    for name, able in sorted(parts.holding(set(remaining) - covered).items()):
        if name in covered:
            continue
        counts = {group: parts.count(group) for group in able}
        able = [g for g, own in counts.items() if all(remaining[n] > own[n] for n in own)]
        for group in sorted(able, key=lambda g: (sum(counts[g].values()), parts.rank(g)))[:1]:
            more.append(group)
            covered.update(counts[group])
            remaining.subtract(counts[group])
    return more


class _Groups:
    """Samples by their group, in arrays: most groups are an image on its own.

    Args:
        classes: Class indices of every sample.
        groups: The group of every sample.
        seed: Of the groups' order.
    """

    def __init__(self, classes: Sequence[Classes], groups: Sequence[str], seed: int | str) -> None:
        numbers: dict[str, int] = {}
        of = (numbers.setdefault(group, len(numbers)) for group in groups)
        self.of = np.fromiter(of, np.int64, len(groups))  # the group's number, of every sample
        self.number = len(numbers)
        self._classes = classes
        told = bytearray()
        for group in numbers:
            told += _rank(group, seed)
        self._ranks = np.frombuffer(told, dtype=">u8").astype(np.uint64).reshape(-1, 4)
        self._members = np.argsort(self.of, kind="stable")
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(self.of, minlength=1))))

    def rank(self, group: int) -> list[int]:
        """What decides whether the group comes before another."""
        return list(map(int, self._ranks[group]))

    def ranked(self) -> Iterator[int]:
        """All groups by their rank."""
        return map(int, np.lexsort(self._ranks.T[::-1]))

    def count(self, group: int) -> Mapping[int, int]:
        """Samples of each class."""
        start, end = self._starts[group : group + 2]
        if end - start > 1:
            return _count(self._classes, self._members[start:end].tolist())
        own = self._classes[self._members[start]] or (-1,)
        return {own[0]: 1} if len(own) == 1 else Counter(own)

    def holding(self, names: Collection[int]) -> dict[int, list[int]]:
        """Of each of these classes the groups that have it."""
        found: dict[int, dict[int, None]] = {name: {} for name in names}
        for index, own in enumerate(self._classes if names else ()):
            for name in own or (-1,):
                if name in found:
                    found[name][int(self.of[index])] = None
        return {name: list(groups) for name, groups in found.items()}


def fold_of(
    classes: Sequence[Classes], groups: Sequence[str], folds: int, fold: int, seed: int
) -> tuple[list[int], list[int]]:
    """One fold of a stratified cross-validation that keeps groups together.

    Args:
        classes: Class indices of every sample.
        groups: The group of every sample.
        folds: How many, at least 2.
        fold: Which one is held out, from 0 on.
        seed: Of the shuffling.

    Returns:
        Indices to keep and indices to hold out, both sorted.

    Raises:
        ValueError: fewer groups than folds.

    Source: scikit-learn, StratifiedKFold where every image is alone and has one class, and
        StratifiedGroupKFold in groups. With several classes per image: Sechidis, Tsoumakas and
        Vlahavas, On the Stratification of Multi-Label Data, 2011, on whole groups.
    """
    if len(set(groups)) < folds:
        raise ValueError(f"{len(set(groups))} groups are fewer than {folds} folds")
    enough = min(_count(classes, range(len(classes))).values()) >= folds
    if enough and all(len(own) == 1 for own in classes):
        parts = _single_label_parts([own[0] for own in classes], groups, folds, seed)
    else:
        parts = _multilabel_parts(classes, groups, folds, seed)
    held_out = sorted(parts[fold])
    chosen = set(held_out)
    return [index for index in range(len(classes)) if index not in chosen], held_out


def _single_label_parts(
    targets: Sequence[int], groups: Sequence[str], folds: int, seed: int
) -> list[list[int]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    alone = len(set(groups)) == len(groups)  # then the other one, which takes a while, is spared
    kind = StratifiedKFold if alone else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    pairs = splitter.split([0] * len(targets), targets, None if alone else groups)
    return [list(map(int, held_out)) for _, held_out in pairs]


def _multilabel_parts(
    classes: Sequence[Classes], groups: Sequence[str], folds: int, seed: int
) -> list[list[int]]:
    """The rarest class is dealt out first, each group to the fold that misses the class most."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: _count(classes, indices) for group, indices in members.items()}
    totals = _count(classes, range(len(classes)))
    missing = [{name: number / folds for name, number in totals.items()} for _ in range(folds)]
    room = [len(classes) / folds] * folds
    parts: list[list[int]] = [[] for _ in range(folds)]
    left = sorted(members, key=lambda group: (-len(members[group]), _rank(group, seed)))
    while left:
        remaining = Counter(name for group in left for name in counts[group])
        rarest = min(remaining, key=lambda name: (remaining[name], name))
        for group in [group for group in left if rarest in counts[group]]:
            own = counts[group]
            wanted = [(part[rarest], sum(part[name] for name in own)) for part in missing]
            fold = max(range(folds), key=lambda k: (wanted[k], room[k], -k))
            parts[fold] += members[group]
            room[fold] -= len(members[group])
            for name, number in own.items():
                missing[fold][name] -= number
        left = [group for group in left if rarest not in counts[group]]
    return parts


def joined_groups(
    names: Sequence[str], *columns: Sequence[str | None] | Sequence[bytes | None]
) -> list[str]:
    """One name for all that must stay together.

    Args:
        names: Stable names of the samples.
        columns: Groups of the samples, in as many ways as there are: images that are equal in one
            of them stay together; None for an image on its own.
    """
    keys: list[str] = []
    ties: list[tuple[str, str]] = []
    for name, *groups in zip(names, *columns, strict=True):
        own = [f"\0{kind} {group!r}" for kind, group in enumerate(groups) if group is not None]
        ties += [(own[0], other) for other in own[1:]]
        keys.append(own[0] if own else name)
    least = least_tied(ties)
    return [least(key) for key in keys]


def least_tied(ties: Iterable[tuple[_Item, _Item]]) -> Callable[[_Item], _Item]:
    """What gives, for an item, the least of all that it is tied to, through others too.

    Args:
        ties: Pairs of items.
    """
    lower: dict[_Item, _Item] = {}

    def least(item: _Item) -> _Item:
        while lower.setdefault(item, item) != item:
            lower[item] = lower[lower[item]]
            item = lower[item]
        return item

    for one, other in ties:
        low, high = sorted((least(one), least(other)))
        lower[high] = low
    return least


def balanced_part(
    names: Sequence[str], classes: Sequence[Classes], most: int, seed: int
) -> list[int]:
    """The indices of at most so many samples, as evenly over the classes as they allow.

    Args:
        names: Stable names of the samples.
        classes: Class indices of every sample; in multi-label data the first one counts.
        most: At least 1.
        seed: Another seed is another part.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(names)), key=lambda index: _rank(names[index], f"{seed}/part")):
        members[classes[index][0] if classes[index] else -1].append(index)
    queues = [members[name] for name in sorted(members)]
    turns = max(map(len, queues), default=0)
    in_turn = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return sorted(in_turn[:most])


def _count(classes: Sequence[Classes], indices: Sequence[int]) -> Counter[int]:
    """Samples of each class; those without any are a class of their own, -1."""
    return Counter(name for index in indices for name in classes[index] or (-1,))


def _rank(name: str, seed: int | str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
