"""Many items through a pool of threads, without an object for each of them at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

# A task costs as much as asking for the length of several files, and half a kilobyte.
_ITEMS_OF_A_TASK = 32
_TASKS = 64  # that wait for a thread

T = TypeVar("T")


def in_portions(pool: Executor, work: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """What the work gives of each item, in their order.

    Args:
        pool: Does the work.
        work: From an item to its result.
        items: Positions in a data set.
    """

    def task(start: int) -> list[T]:
        return [work(item) for item in items[start : start + _ITEMS_OF_A_TASK]]

    starts = range(0, len(items), _ITEMS_OF_A_TASK)
    for first in range(0, len(starts), _TASKS):
        for results in pool.map(task, starts[first : first + _TASKS]):
            yield from results
