"""From a data set to batches: what one stage sees, in which order, with which random numbers."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from classifier.data.augmentations import Pipeline, start_worker, to_tensor
from classifier.data.decoding import BadImageError
from classifier.errors import RunError


class Batch(NamedTuple):
    """What a loader yields.

    Args:
        images: (N, 3, H, W), uint8, or float where the augmentations normalise.
        targets: (N,) int64 class indices; -1 where the truth is not known.
        indices: (N,) int64 positions in the stage's data set.
        errors: Only when predicting: the reason why an image could not be decoded, "" when it was.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    errors: tuple[str, ...] = ()


class StageDataset(Dataset[tuple[Tensor, int, int, str]]):
    """The part of a data set that one stage sees, with that stage's pipeline.

    Args:
        dataset: The source; its `augmentations` are replaced by the pipeline.
        indices: Positions in the source.
        targets: Class index per position in `indices`, in the run's class list; -1 unknown.
        pipeline: Applied to every image.
        seed: Random numbers depend on it, on the epoch and on the position, and on nothing else:
            not on the number of workers, and not on where a run was resumed.
        tolerant: Give a blank image and the reason for a file that cannot be decoded.
    """

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int],
        targets: Sequence[int],
        pipeline: Pipeline,
        seed: int,
        tolerant: bool = False,
    ) -> None:
        self.source = copy.copy(dataset)
        self.source.augmentations = pipeline
        self.indices = indices
        self.targets = targets
        self.pipeline = pipeline
        self.seed = seed
        self.tolerant = tolerant
        self._blank: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int | tuple[int, int]) -> tuple[Tensor, int, int, str]:
        """Image, target, position and error of one item.

        Args:
            position: Where in the stage, or (epoch, where), as EpochSampler gives it.
        """
        epoch, place = position if isinstance(position, tuple) else (0, position)
        self.pipeline.reseed(hash((self.seed, epoch, place)) & 0x7FFFFFFFFFFFFFFF)
        error = ""
        try:
            image, _ = self.source[self.indices[place]]
        except Exception as failure:
            if not (self.tolerant and _is_bad_image(failure)):
                raise
            image, error = self._blank_image(), str(failure.__cause__)
        image = to_tensor(image)
        return image, self.targets[place], place, error

    def path(self, place: int) -> str:
        """The sample's path as predictions.csv shows it."""
        samples = getattr(self.source, "samples", None)
        sample = samples[self.indices[place]] if samples is not None else None
        return str(getattr(sample, "path", self.indices[place]))

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


class ResumableLoader(DataLoader[Any]):
    """A loader that starts late: at the first batch, when the epoch and the position are known.

    Lightning makes a loader's iterator before it has restored a checkpoint's progress; workers
    would by then have begun with the wrong epoch.
    """

    num_batches_done: Callable[[], int] | None = None

    def __iter__(self) -> Any:
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        if self.num_batches_done is not None and isinstance(self.sampler, EpochSampler):
            self.sampler.num_done = self.num_batches_done() * (self.batch_size or 1)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own: the trainer's progress says where to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""


def collate(items: Sequence[tuple[Tensor, int, int, str]]) -> Batch:
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
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(places, dtype=torch.int64),
        errors,
    )


def init_worker(worker_id: int) -> None:
    """Leave signals to the training process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    start_worker()
