"""From a data set to batches: what one stage sees, in which order, with which random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from classifier.data.augmentations import Pipeline
from classifier.data.datasets import ImageDataset, file_of, sample_name
from classifier.data.decoding import BadImageError, Colour
from classifier.data.sampling import (
    BalancedSampler,
    EpochSampler,
    OrderedSampler,
    even_batch_size,
)
from classifier.data.selection import Members
from classifier.data.transforms import to_tensor
from classifier.data.worker_signals import SteadyLoader, heed_only_parent
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
        members: Its images; the `augmentations` of their data set are replaced by the pipeline.
        pipeline: Applied to every image.
        seed: Random numbers depend on it, on the epoch and on the position, and on nothing else:
            not on the number of workers, and not on where a run was resumed.
        background: What shows through transparent images: (R, G, B), 0 to 255.
        num_classes: Of multi-label data, whose targets become (C,) zeros and ones; else 0.
        tolerant: Give a blank image and the reason for a file that cannot be decoded.
        every_pixel: Decode every pixel of a JPEG file: an evaluation is to come out as in other
            libraries, a training may take what the pipeline needs.
    """

    def __init__(
        self,
        members: Members,
        pipeline: Pipeline,
        seed: int,
        *,
        background: Colour,
        num_classes: int,
        tolerant: bool,
        every_pixel: bool,
    ) -> None:
        self.source = copy.copy(members.source)
        self.source.augmentations = pipeline
        if isinstance(self.source, ImageDataset):
            self.source.min_side = None if every_pixel else pipeline.min_side
            self.source.background = background
        self.indices = members.indices
        self.targets = members.targets
        self.skipped = members.skipped
        self.pipeline = pipeline
        self.seed = seed
        self.num_classes = num_classes
        self.tolerant = tolerant
        self._blank: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, Any, int, str]:
        """Image, target, position and error of one item.

        Args:
            item: Its position in the stage, or (epoch, position), as EpochSampler gives it.
        """
        epoch, position = item if isinstance(item, tuple) else (0, item)
        error = ""
        try:
            image = self.image(position, hash((self.seed, epoch, position)) & 0x7FFFFFFFFFFFFFFF)
        except Exception as failure:
            is_bad_image = isinstance(failure.__cause__, BadImageError | FileNotFoundError)
            if not (self.tolerant and is_bad_image):
                raise
            image, error = self._blank_image(), str(failure.__cause__)
        return image, self.target(position), position, error

    def image(self, position: int, seed: int) -> Tensor:
        """One image (3, H, W) as augmented with the random numbers of a seed of at least 0.

        Raises:
            RunError: the file cannot be decoded, or is gone; names it.
        """
        self.pipeline.reseed(seed)
        image, _ = self.source[self.indices[position]]
        return to_tensor(image)

    def target(self, position: int) -> Any:
        """Class index, -1 unknown; in multi-label data (C,) zeros and ones."""
        target = self.targets[position]
        if not isinstance(target, tuple):
            return target
        present = torch.zeros(self.num_classes)
        present[list(target)] = 1.0
        return present

    def path(self, position: int) -> str:
        """The sample's path as predictions.csv shows it."""
        return sample_name(self.source, self.indices[position])

    def file(self, position: int) -> str | None:
        """The sample's file; None where it has none of its own."""
        return file_of(self.source, self.indices[position])

    def _blank_image(self) -> Tensor:
        if self._blank is None:
            self._blank = self.pipeline(image=np.zeros((64, 64, 3), dtype=np.uint8))["image"]
        return self._blank


class ResumableLoader(SteadyLoader):
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


def collate(items: Sequence[tuple[Tensor, Any, int, str]]) -> Batch:
    """Stack items into a batch.

    Raises:
        RunError: the images differ in size.
    """
    images, targets, positions, errors = zip(*items, strict=True)
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
        torch.tensor(positions, dtype=torch.int64),
        errors,
    )


def whole_batch(batch: Any) -> Any:
    """The collate function of a data set that gives whole batches."""
    return batch


def init_worker(worker_id: int) -> None:
    """One thread for each worker; signals are the training process's, which ends its workers."""
    heed_only_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def make_loader(
    dataset: Any,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    world: tuple[int, int] = (1, 0),
    shuffle: bool = False,
    balanced: bool = False,
) -> ResumableLoader:
    """The loader of one process.

    Args:
        dataset: A stage, of images or of features.
        batch_size: Of each process.
        num_workers: Processes that decode; a stage of features needs none.
        seed: Of the order.
        world: How many processes there are, and which one this is.
        shuffle: Whether the images come in another order every epoch; else in that of the stage.
        balanced: Whether all classes are to be drawn equally often; with shuffle only.
    """
    replicas, rank = world
    encoded = not isinstance(dataset, StageDataset)
    workers = 0 if encoded else min(num_workers, max(0, len(dataset) - 1))
    sampler: EpochSampler | OrderedSampler | None = None
    share = math.ceil(len(dataset) / replicas)  # of each process, as samplers count
    # BatchNorm cannot train on one image: a last batch of one is left out, another image every
    # epoch.
    drop_last = shuffle and share % batch_size == 1 and share > 1
    if shuffle and balanced:
        sampler = BalancedSampler(dataset, replicas, rank, seed)
    elif shuffle:
        sampler = EpochSampler(dataset, replicas, rank, shuffle=True, seed=seed)
    elif replicas > 1:
        sampler = OrderedSampler(dataset, replicas, rank)
        batch_size = even_batch_size(len(dataset), replicas, batch_size)
    return ResumableLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=whole_batch if encoded else collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
        # Of its own, so that making an iterator leaves the global random state alone.
        generator=torch.Generator().manual_seed(seed),
    )
