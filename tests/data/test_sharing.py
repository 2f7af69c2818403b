"""How the processes of a distributed training share images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from classifier.data.sampling import EpochSampler, OrderedSampler, even_batch_size


class Images:
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number


def parts(number: int, replicas: int) -> list[list[int]]:
    images: Any = Images(number)
    return [list(OrderedSampler(images, replicas, rank)) for rank in range(replicas)]


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
def test_ordered_sampler_gives_every_image_once_when_each_process_can_have_one(
    replicas: int,
) -> None:
    for number in range(replicas, 30):
        shared = parts(number, replicas)
        assert sorted(place for part in shared for place in part) == list(range(number))
        assert all(part == sorted(part) for part in shared)
        assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_ordered_sampler_gives_every_process_all_images_when_they_are_too_few() -> None:
    assert parts(2, 3) == [[0, 1]] * 3


def test_ordered_sampler_knows_its_length() -> None:
    images: Any = Images(7)
    assert [len(OrderedSampler(images, 3, rank)) for rank in range(3)] == [3, 2, 2]


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 32])
def test_processes_have_equally_many_batches_when_the_images_cannot_be_shared_evenly(
    replicas: int, batch_size: int
) -> None:
    for number in range(1, 200):
        size = even_batch_size(number, replicas, batch_size)
        assert len({math.ceil(len(part) / size) for part in parts(number, replicas)}) == 1
        assert abs(size - batch_size) <= 6
        if number % replicas == 0:
            assert size == batch_size


@pytest.mark.parametrize("number", [24, 25])
def test_batches_of_two_processes_are_together_the_batch_of_one_twice_as_large(
    number: int,
) -> None:
    images: Any = Images(number)

    def order(replicas: int, rank: int) -> np.ndarray:
        sampler = EpochSampler(images, replicas, rank, shuffle=True, seed=3)
        sampler.set_epoch(2)
        return np.array([place for _, place in sampler])

    alone, first, second = order(1, 0), order(2, 0), order(2, 1)
    for batch in range(3):
        both = {*first[4 * batch : 4 * batch + 4], *second[4 * batch : 4 * batch + 4]}
        assert both == set(alone[8 * batch : 8 * batch + 8])
    # Where the images cannot be shared evenly, the order's first one comes again at its end.
    rest = [*first[12:], *second[12:]]
    assert rest == [*alone[24:], *alone[: number % 2]]
