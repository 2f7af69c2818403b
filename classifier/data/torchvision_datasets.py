"""torchvision's data sets, decoded as all others are."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.data.datasets import Augmentations, ImageDataset, Sample
from classifier.data.decoding import decode_image, rgb_pixels
from classifier.errors import ConfigError, reason_of

# What torchvision's classes call their class indices, in the order in which to look.
_TARGETS = ("targets", "labels", "_labels", "y")
_NAMES = ("classes", "categories", "all_categories")


class TorchvisionDataset(ImageDataset):
    """A classification data set of torchvision: MNIST, CIFAR10, Flowers102, ImageNet and the rest.

    Args:
        name: Its class in torchvision.datasets.
        root: Folder that it is kept in.
        split: `train` or `test`, or what the class calls its splits.
        download: Fetch it where it is missing.
        arguments: More arguments of the class.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        split: str = "train",
        download: bool = False,
        arguments: dict[str, Any] | None = None,
        augmentations: Augmentations | None = None,
    ) -> None:
        super().__init__(augmentations)
        self.name = name
        self.root = root
        self.split = split
        self.download = download
        self.arguments = dict(arguments or {})

    @cached_property
    def _source(self) -> Any:
        cls = _torchvision_class(self.name)
        takes = _arguments_of(cls)
        arguments: dict[str, Any] = dict(self.arguments)
        if "root" in takes:
            arguments.setdefault("root", self.root)
        if "train" in takes:
            if self.split not in ("train", "test"):
                raise ConfigError(
                    "split", f"{self.name} has train and test", got=self.split,
                    remedy="Write train or test",
                )  # fmt: skip
            arguments.setdefault("train", self.split == "train")
        elif "split" in takes:
            arguments.setdefault("split", self.split)
        elif self.split != "train":
            raise ConfigError(
                "split", f"{self.name} has no splits", got=self.split,
                remedy="Leave it out; val_fraction and test_fraction hold parts of it out",
            )  # fmt: skip
        if "download" in takes:
            arguments.setdefault("download", self.download)
        if "loader" in takes:
            arguments["loader"] = str  # the path itself: files are decoded here, as all others are
        try:
            return cls(**arguments)
        except Exception as error:  # of every kind: a missing package, file or argument
            reason = reason_of(error, 300)
            fetch = "Check the network connection" if self.download else "Write download: true"
            key = "split" if "split" in reason else "name"
            raise ConfigError(
                key, f"{self.name} cannot be opened ({reason})", got=getattr(self, key),
                remedy=f"{fetch}, or give the folder that holds it as root",
            ) from error  # fmt: skip

    @cached_property
    def class_names(self) -> list[str]:
        """The names that the class gives, in its order."""
        found = (getattr(self._source, attribute, None) for attribute in _NAMES)
        names = next((names for names in found if names is not None), None)
        if names is None:
            names = [str(number) for number in range(max(self._numbers, default=-1) + 1)]
        # ImageNet gives a tuple of synonyms for each class.
        plain = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
        # Some names stand for two classes of ImageNet.
        return [
            f"{name} ({index})" if plain.count(name) > 1 else name
            for index, name in enumerate(plain)
        ]

    @cached_property
    def _numbers(self) -> list[int]:
        for attribute in _TARGETS:
            found = getattr(self._source, attribute, None)
            if found is not None and len(found) == len(self._source):
                break
        else:
            found = [self._source[index][1] for index in range(len(self._source))]
        try:
            return [int(number) for number in found]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "name", "does not give every image one class", got=self.name,
                remedy="Write a data set of your own, derived from classifier.ImageDataset",
            ) from error  # fmt: skip

    def scan(self) -> Sequence[Sample]:
        """All images in the data set's order, by their path or their number."""
        names = self.class_names
        root = Path(self.root)
        files = [self.file(index) for index in range(len(self._numbers))]
        paths = [
            f"{index:08d}" if file is None else Path(os.path.relpath(file, root)).as_posix()
            for index, file in enumerate(files)
        ]
        labels = [names[number] if number >= 0 else None for number in self._numbers]
        return [Sample(*pair) for pair in zip(paths, labels, strict=True)]

    @property
    def finds_copies(self) -> bool:  # type: ignore[override]
        """Where files or arrays need not be decoded for it."""
        return hasattr(self._source, "loader") or hasattr(self._source, "data")

    def file(self, index: int) -> Path | None:
        """The image file, where the class knows files and not arrays."""
        image = self._source[index][0] if hasattr(self._source, "loader") else None
        return Path(image) if isinstance(image, str) else None

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode image `index`."""
        file = self.file(index)
        return (
            rgb_pixels(self._source[index][0], self.background)
            if file is None
            else decode_image(file, self.min_side, self.background)
        )

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for equal files or pixels."""
        file = self.file(index)
        content = self.load(index).tobytes() if file is None else file.read_bytes()
        return hashlib.blake2b(content, digest_size=16).digest()


def _torchvision_class(name: str) -> Any:
    import torchvision.datasets as library

    options = [item for item in library.__all__ if isinstance(getattr(library, item), type)]
    if name not in options:
        raise ConfigError(
            "name", "torchvision has no such data set", got=name,
            remedy="Write a class of torchvision.datasets", name=name, options=options,
        )  # fmt: skip
    return getattr(library, name)


def _arguments_of(cls: Any) -> set[str]:
    """The arguments of a class, those included that it only hands on to its base."""
    found: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters
        found |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return found
