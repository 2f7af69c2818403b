"""Which images come when, in which process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from classifier.data.splitting import classes_of

_PORTION = 4096


class EpochSampler(DistributedSampler[int]):
    """Gives (epoch, position) pairs, so that workers that outlive an epoch know which it is.

    A DistributedSampler also with one process: Lightning then leaves it alone and tells it the
    epoch, and every rank gets its own part: all ranks' batches of b together are the batch of
    ranks x b that one process would take. All ranks must have equally many: where the images cannot
    be shared evenly, up to ranks - 1 of them, the first of the epoch's order, are trained on a
    second time in its last batch, and counted twice in its metrics.
    """

    num_done = 0  # positions of this epoch that were seen before a resume

    def __iter__(self) -> Iterator[Any]:
        done, self.num_done = self.num_done, 0
        return ((self.epoch, index) for index in islice(self._order(), done, None))

    def _order(self) -> Iterator[int]:
        """This process's positions in this epoch: torch's shuffle, without a list of them all."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        number = len(self.dataset)  # type: ignore[arg-type]
        order = (
            torch.randperm(number, generator=generator) if self.shuffle else torch.arange(number)
        )
        if self.num_replicas > 1:
            order = order[torch.arange(self.rank, self.total_size, self.num_replicas) % number]
        return _one_by_one(order)


class BalancedSampler(EpochSampler):
    """Draws with replacement so that every class is as frequent as the others.

    Args:
        dataset: A stage.
        num_replicas: Processes.
        rank: This one.
        seed: Of the draws, which also depend on the epoch, and not on the number of processes.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        targets = dataset.targets
        counts = Counter(index for target in targets for index in classes_of(target) or (-1,))
        # An image of several classes is drawn for the rarest of them.
        rates = {t: max(1.0 / counts[i] for i in classes_of(t) or (-1,)) for t in set(targets)}
        weights = np.fromiter((rates[target] for target in targets), np.float64, len(targets))
        self._weights = torch.from_numpy(weights)

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(self._weights, self.total_size, True, generator=generator)
        return _one_by_one(drawn[self.rank : self.total_size : self.num_replicas])


def _one_by_one(positions: torch.Tensor) -> Iterator[int]:
    """Python's numbers, which take five times the memory of the tensor's, a few at a time."""
    starts = range(0, len(positions), _PORTION)
    portions = (positions[start : start + _PORTION].tolist() for start in starts)
    return chain.from_iterable(portions)


class OrderedSampler(DistributedSampler[int]):
    """One process's part of images that are not trained on: in order, and none counted twice.

    Lightning's own pads each part to the length of the longest with images that another has. Fewer
    images than processes cannot be shared, as each must have one: each process then gets all of
    them, and a mean over the processes is still the mean over the images.

    Args:
        dataset: A stage.
        num_replicas: Processes.
        rank: This one.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        shared = len(dataset) >= num_replicas
        self._part = range(rank, len(dataset), num_replicas) if shared else range(len(dataset))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._part)

    def __len__(self) -> int:
        return len(self._part)


def even_batch_size(num_images: int, num_replicas: int, batch_size: int) -> int:
    """The batch size nearest to one asked for with which all processes have equally many batches.

    With a batch more than the others, a process waits for them without end where a batch needs them
    all, as BatchNorm's statistics do in DDP and all weights in FSDP.

    Args:
        num_images: Shared out by an OrderedSampler.
        num_replicas: Processes.
        batch_size: As asked for; rather one smaller than one larger.
    """
    fewest = num_images // num_replicas
    if fewest == 0 or num_images % num_replicas == 0:
        return batch_size
    sizes = chain(range(batch_size, 1, -1), count(batch_size + 1))
    return next(size for size in sizes if fewest % size)
