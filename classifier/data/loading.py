"""From a data set to batches: what one stage sees, in which order, with which random numbers."""

from __future__ import annotations

import copy
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from classifier.data.augmentations import Pipeline, start_worker, to_tensor
from classifier.data.datasets import ImageDataset, sample_name
from classifier.data.decoding import BadImageError
from classifier.errors import RunError


class Batch(NamedTuple):
    """What a loader yields.

    Args:
        images: (N, 3, H, W), uint8, or float where the augmentations normalise; where `encoded`,
            features (N, ...) of the frozen part of the model.
        targets: (N,) int64 class indices, -1 where the truth is not known; in multi-label data
            (N, C) float32 zeros and ones.
        indices: (N,) int64 positions in the stage's data set.
        errors: Only when predicting: the reason why an image could not be decoded, "" when it was.
        encoded: Whether the model shall go on behind its frozen part.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    errors: tuple[str, ...] = ()
    encoded: bool = False


class StageDataset(Dataset[tuple[Tensor, Any, int, str]]):
    """The part of a data set that one stage sees, with that stage's pipeline.

    Args:
        dataset: The source; its `augmentations` are replaced by the pipeline.
        indices: Positions in the source.
        targets: Class index per position in `indices`, in the run's class list, or a tuple of them;
            -1 unknown.
        pipeline: Applied to every image.
        seed: Random numbers depend on it, on the epoch and on the position, and on nothing else:
            not on the number of workers, and not on where a run was resumed.
        num_classes: Of multi-label data, whose targets become (C,) zeros and ones; else 0.
        tolerant: Give a blank image and the reason for a file that cannot be decoded.
        skipped: Path, and why, of files that are left out because they are no images.
    """

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int],
        targets: Sequence[Any],
        pipeline: Pipeline,
        seed: int,
        *,
        num_classes: int = 0,
        tolerant: bool = False,
        skipped: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.source = copy.copy(dataset)
        self.source.augmentations = pipeline
        if isinstance(self.source, ImageDataset):
            self.source.min_side = pipeline.min_side
        self.indices = indices
        self.targets = targets
        self.pipeline = pipeline
        self.seed = seed
        self.num_classes = num_classes
        self.tolerant = tolerant
        self.skipped = list(skipped)
        self._blank: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int | tuple[int, int]) -> tuple[Tensor, Any, int, str]:
        """Image, target, position and error of one item.

        Args:
            position: Where in the stage, or (epoch, where), as EpochSampler gives it.
        """
        epoch, place = position if isinstance(position, tuple) else (0, position)
        error = ""
        try:
            image = self.image(place, hash((self.seed, epoch, place)) & 0x7FFFFFFFFFFFFFFF)
        except Exception as failure:
            if not (self.tolerant and _is_bad_image(failure)):
                raise
            image, error = self._blank_image(), str(failure.__cause__)
        return image, self.target(place), place, error

    def image(self, place: int, seed: int) -> Tensor:
        """One image (3, H, W) as augmented with the random numbers of a seed of at least 0.

        Raises:
            RunError: the file cannot be decoded, or is gone; names it.
        """
        self.pipeline.reseed(seed)
        image, _ = self.source[self.indices[place]]
        return to_tensor(image)

    def target(self, place: int) -> Any:
        """Class index, -1 unknown; in multi-label data (C,) zeros and ones."""
        target = self.targets[place]
        if not isinstance(target, tuple):
            return target
        present = torch.zeros(self.num_classes)
        present[list(target)] = 1.0
        return present

    def path(self, place: int) -> str:
        """The sample's path as predictions.csv shows it."""
        return sample_name(self.source, self.indices[place])

    def _blank_image(self) -> Tensor:
        if self._blank is None:
            self._blank = self.pipeline(image=np.zeros((64, 64, 3), dtype=np.uint8))["image"]
        return self._blank


def _is_bad_image(failure: Exception) -> bool:
    return isinstance(failure.__cause__, BadImageError | FileNotFoundError)


class EpochSampler(DistributedSampler[int]):
    """Gives (epoch, position) pairs, so that workers that outlive an epoch know which it is.

    A DistributedSampler also with one process: Lightning then leaves it alone and tells it the
    epoch, and every rank gets its own part.
    """

    num_done = 0  # positions of this epoch that were seen before a resume

    def __iter__(self) -> Iterator[Any]:
        done, self.num_done = self.num_done, 0
        return ((self.epoch, index) for index in islice(super().__iter__(), done, None))


class BalancedSampler(DistributedSampler[int]):
    """Draws with replacement so that every class is as frequent as the others.

    Gives (epoch, position) pairs, as EpochSampler does, and as many of them an epoch.

    Args:
        dataset: A stage.
        num_replicas: Processes.
        rank: This one.
        seed: Of the draws, which also depend on the epoch, and not on the number of processes.
    """

    num_done = 0

    def __init__(self, dataset: StageDataset, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        kinds = [target if isinstance(target, tuple) else (target,) for target in dataset.targets]
        counts = Counter(name for kind in kinds for name in kind or (-1,))
        # An image of several classes is drawn for the rarest of them.
        rates = [max(1.0 / counts[name] for name in kind or (-1,)) for kind in kinds]
        self._weights = torch.tensor(rates, dtype=torch.float64)

    def __iter__(self) -> Iterator[Any]:
        done, self.num_done = self.num_done, 0
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(self._weights, self.total_size, True, generator=generator)
        own = drawn[self.rank : self.total_size : self.num_replicas].tolist()
        return ((self.epoch, index) for index in islice(own, done, None))


class ResumableLoader(DataLoader[Any]):
    """A loader that starts late: at the first batch, when the epoch and the position are known.

    Lightning makes a loader's iterator before it has restored a checkpoint's progress; workers
    would by then have begun with the wrong epoch.
    """

    num_batches_done: Callable[[], int] | None = None

    def __iter__(self) -> Any:
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        if self.num_batches_done is not None and isinstance(
            self.sampler, EpochSampler | BalancedSampler
        ):
            self.sampler.num_done = self.num_batches_done() * (self.batch_size or 1)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own: the trainer's progress says where to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""


def collate(items: Sequence[tuple[Tensor, Any, int, str]]) -> Batch:
    """Stack items into a batch.

    Raises:
        RunError: the images differ in size.
    """
    images, targets, places, errors = zip(*items, strict=True)
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        found = ", ".join(" x ".join(str(side) for side in shape) for shape in sorted(shapes)[:3])
        raise RunError(
            f"data.init_args.augmentations gives images of different sizes ({found}). "
            "Add a transform that fixes the size, such as albumentations.Resize"
        )
    return Batch(
        default_collate(list(images)),
        default_collate(list(targets)),
        torch.tensor(places, dtype=torch.int64),
        errors,
    )


def whole_batch(batch: Any) -> Any:
    """The collate function of a data set that gives whole batches."""
    return batch


def init_worker(worker_id: int) -> None:
    """Leave signals to the training process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    start_worker()
