"""Which images come when, in which process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import torch
from torch.utils.data.distributed import DistributedSampler

from classifier.data.splitting import classes_of


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
        """The positions of this process in this epoch."""
        return super().__iter__()


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
        classes = [classes_of(target) or (-1,) for target in dataset.targets]
        counts = Counter(index for own in classes for index in own)
        # An image of several classes is drawn for the rarest of them.
        rates = [max(1.0 / counts[index] for index in own) for own in classes]
        self._weights = torch.tensor(rates, dtype=torch.float64)

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(self._weights, self.total_size, True, generator=generator)
        return iter(drawn[self.rank : self.total_size : self.num_replicas].tolist())


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
