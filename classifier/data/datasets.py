"""What a data set is: samples with a path and a label, decoded on demand."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from classifier.data.decoding import WHITE, BadImageError, Colour, decode_image
from classifier.data.rules import DATASETS
from classifier.errors import ConfigError, RunError

Augmentations = Callable[..., dict[str, Any]]
Label = str | tuple[str, ...] | None


class Sample(NamedTuple):
    """One image.

    Args:
        path: As it is written into predictions.csv: relative to the data set's root, with forward
            slashes.
        label: The class name; a tuple of them in multi-label data; None where it is not known.
        group: Images of one group (a patient, a video) stay on one side of a split; None for an
            image on its own.
    """

    path: str
    label: Label
    group: str | None = None


class PackedSamples(Sequence[Sample]):
    """Samples in a few arrays: 12 bytes for each beside the text of its path.

    Objects of their own would be 300 bytes, and every worker process would come to have a copy of
    them: to look at an object is to write the number of its references into it.

    Args:
        samples: In their order.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        text, ends = bytearray(), array("q", [0])
        labels: dict[Label, int] = {}
        groups: dict[str | None, int] = {}
        self._label, self._group = array("i"), array("i")
        for path, label, group in samples:
            text += path.encode("utf-8", "surrogatepass")  # also of names that are no valid UTF-8
            ends.append(len(text))
            self._label.append(labels.setdefault(label, len(labels)))
            self._group.append(groups.setdefault(group, len(groups)))
        self._text, self._ends = bytes(text), ends
        self.labels, self._groups = list(labels), list(groups)

    def __len__(self) -> int:
        return len(self._label)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        path = self._text[self._ends[place] : self._ends[place + 1]]
        label, group = self.labels[self._label[place]], self._groups[self._group[place]]
        return Sample(path.decode("utf-8", "surrogatepass"), label, group)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def numbered(self, numbers: Mapping[Label, Any]) -> list[Any]:
        """What each sample's label stands for."""
        known = [numbers[label] for label in self.labels]
        return [known[number] for number in self._label]


class ImageDataset(Dataset[tuple[Any, Any]], ABC):
    """The base of a data set: subclass it, implement `scan` and `load`.

    Nothing is read before it is needed: a checkpoint's training folder may be gone when only
    prediction is asked for.

    Args:
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    # Pixels of the shorter side that the pipeline needs; set by the data module, None for all.
    min_side: int | None = None
    # What shows through transparent images; set by the data module.
    background: Colour = WHITE
    # Decoded images of the on-disk cache; set by the data module.
    kept: Any = None
    # Whether a split looks for exact copies: only where that does not mean to decode every image.
    finds_copies = False

    def __init__(self, augmentations: Augmentations | None = None) -> None:
        self.augmentations = augmentations

    @abstractmethod
    def scan(self) -> Sequence[Sample]:
        """Find all samples, in an order that does not depend on the machine."""

    @abstractmethod
    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode sample `index` to RGB pixels (H, W, 3), uint8.

        Raises:
            BadImageError: the sample cannot be decoded.
        """

    def file(self, index: int) -> Path | None:
        """The image file of sample `index`; None where it has none of its own."""
        return None

    @property
    def decodes_as_is(self) -> bool:
        """Whether `load` is this program's own: then equal files are equal pixels."""
        return type(self).load.__module__.partition(".")[0] == "classifier"

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for equal content: here of the pixels."""
        pixels = self.load(index)
        content = repr(pixels.shape).encode() + pixels.tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """All samples, found at the first use."""
        found = self.scan()
        if isinstance(found, list) and all(type(sample) is Sample for sample in found):
            return PackedSamples(found)
        return found

    @cached_property
    def _labels(self) -> list[Label]:
        """Every label that occurs, once."""
        samples = self.samples
        if isinstance(samples, PackedSamples):
            return samples.labels
        return list(dict.fromkeys(sample.label for sample in samples))

    @cached_property
    def class_names(self) -> list[str]:
        """The labels that occur, sorted."""
        names: set[str] = set()
        for label in self._labels:
            names.update((label,) if isinstance(label, str) else label or ())
        return sorted(names)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image can have several labels, or none."""
        return any(isinstance(label, tuple) for label in self._labels)

    @cached_property
    def targets(self) -> list[Any]:
        """The class of every sample, as an index in `class_names`; -1 where it is not known.

        In multi-label data a tuple of indices.
        """
        index = {name: number for number, name in enumerate(self.class_names)}
        targets: dict[Label, Any] = {
            label: tuple(index[name] for name in label)
            if isinstance(label, tuple)
            else index.get(label or "", -1)
            for label in self._labels
        }
        samples = self.samples
        if isinstance(samples, PackedSamples):
            return samples.numbered(targets)
        return [targets[sample.label] for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The augmented image of sample `index`, and its target in `class_names`.

        Raises:
            RunError: the file cannot be decoded, or is gone; names it.
        """
        try:
            image: Any = (self if self.kept is None else self.kept).load(index)
        except FileNotFoundError as error:
            raise RunError(f"{self.describe(index)}: the file vanished after the scan") from error
        except BadImageError as error:
            raise RunError(
                f"{self.describe(index)}: {error}. --check lists all such files; "
                "data.init_args.on_bad_image: skip leaves them out"
            ) from error
        if self.augmentations is not None:
            image = self.augmentations(image=image)["image"]
        return image, self.targets[index]

    def describe(self, index: int) -> str:
        """The sample as a message names it: its file, else its path."""
        return str(self.file(index) or self.samples[index].path)


class FilesDataset(ImageDataset):
    """The base of data sets whose samples are files: implement `scan` and `file`."""

    finds_copies = True

    @abstractmethod
    def file(self, index: int) -> Path:
        """The image file of sample `index`."""

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode the file of sample `index`."""
        return decode_image(self.file(index), self.min_side, self.background)

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for files of equal bytes."""
        return hashlib.blake2b(self.file(index).read_bytes(), digest_size=16).digest()


def scanned(datasets: Mapping[str, Any], stage: str) -> Any:
    """The data set of a stage, scanned.

    Args:
        datasets: train, val, test and predict, as far as they are given.
        stage: One of them.

    Raises:
        ConfigError: it is not configured, or cannot be scanned; names the key.
    """
    key = f"{DATASETS}.{stage}"
    dataset = datasets.get(stage)
    if dataset is None:
        raise ConfigError(
            key, "is not configured", got=None,
            remedy=f"Add --{key} '{{class_path: FolderImageDataset, init_args: {{root: FOLDER}}}}'",
        )  # fmt: skip
    try:
        len(dataset)
    except ConfigError as error:
        if error.key.startswith("-") or "." in error.key:
            raise
        raise error.at(f"{key}.init_args.{error.key}") from error
    return dataset


def sample_name(dataset: Any, index: int) -> str:
    """A stable name of a sample: its path where there is one."""
    samples = getattr(dataset, "samples", None)
    path = getattr(samples[index], "path", None) if samples is not None else None
    return str(index) if path is None else str(path)


def file_of(dataset: Any, index: int) -> str | None:
    """The file of a sample as it can be opened from here; None where it has none of its own."""
    file = dataset.file(index) if isinstance(dataset, ImageDataset) else None
    return None if file is None else str(file)
