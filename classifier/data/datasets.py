"""Where images come from: samples with a path and a label, decoded on demand."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from classifier.data.decoding import IMAGE_EXTENSIONS, BadImageError, decode_image
from classifier.errors import ConfigError, RunError

log = logging.getLogger(__name__)

Augmentations = Callable[..., dict[str, Any]]


class Sample(NamedTuple):
    """One image.

    Args:
        path: As it is written into predictions.csv: relative to the data set's root, with forward
            slashes.
        label: The class name, None where it is not known.
    """

    path: str
    label: str | None


class ImageDataset(Dataset[tuple[Any, int]], ABC):
    """The base of a data set: subclass it, implement `scan` and, where needed, `load`.

    Nothing is read before it is needed: a checkpoint's training folder may be gone when only
    prediction is asked for.

    Args:
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

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

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """All samples, found at the first use."""
        return self.scan()

    @cached_property
    def class_names(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({sample.label for sample in self.samples if sample.label is not None})

    @cached_property
    def targets(self) -> list[int]:
        """The class index of every sample in `class_names`; -1 where the label is not known."""
        index = {name: number for number, name in enumerate(self.class_names)}
        return [index.get(sample.label or "", -1) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The augmented image of sample `index`, and its target in `class_names`.

        Raises:
            RunError: the file cannot be decoded, or is gone; names it.
        """
        try:
            image: Any = self.load(index)
        except FileNotFoundError as error:
            raise RunError(f"{self.describe(index)}: the file vanished after the scan") from error
        except BadImageError as error:
            raise RunError(f"{self.describe(index)}: {error}") from error
        if self.augmentations is not None:
            image = self.augmentations(image=image)["image"]
        return image, self.targets[index]

    def describe(self, index: int) -> str:
        """The sample as a message names it."""
        return self.samples[index].path


class FolderImageDataset(ImageDataset):
    """Images in a folder with one sub-folder per class, or flat for prediction.

    Args:
        root: The folder. Each direct sub-folder with images below it is a class. Files whose names
            begin with a dot, and files that are no images, are ignored.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(self, root: str, augmentations: Augmentations | None = None) -> None:
        super().__init__(augmentations)
        self.root = root

    def scan(self) -> Sequence[Sample]:
        """Find the images below the root, sorted by path.

        Raises:
            ConfigError: no such folder, or no image in it.
        """
        root = Path(self.root)
        if not root.is_dir():
            problem = "is a file, not a folder" if root.exists() else "no such folder"
            raise ConfigError(
                "root", problem, got=self.root,
                remedy=f"Relative paths start at {os.getcwd()}",
            )  # fmt: skip
        paths = sorted(find_images(root))
        if not paths:
            raise ConfigError(
                "root", f"no images in this folder; it holds {_contents(root)}", got=self.root,
                remedy="Put images into it, in one sub-folder per class for training",
            )  # fmt: skip
        return [Sample(path, path.partition("/")[0] if "/" in path else None) for path in paths]

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode the file of sample `index`."""
        return decode_image(Path(self.root) / self.samples[index].path)

    def describe(self, index: int) -> str:
        """The path of the file."""
        return str(Path(self.root) / self.samples[index].path)


class ImagePathsDataset(ImageDataset):
    """The images that `--predict a.jpg photos/` names: files and folders, flat or nested.

    Args:
        paths: Files and folders. With one folder alone a row's path is relative to it; otherwise
            it is the path as given, so that every row leads to its file.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(self, paths: Sequence[str], augmentations: Augmentations | None = None) -> None:
        super().__init__(augmentations)
        self.paths = list(paths)
        self._files: list[Path] = []

    def scan(self) -> Sequence[Sample]:
        """Find the images, sorted by path.

        Raises:
            ConfigError: a path that does not exist, or no image at all.
        """
        found: dict[str, Path] = {}
        alone = len(self.paths) == 1
        for name in self.paths:
            path = Path(name)
            if path.is_dir():
                for relative in find_images(path):
                    row = relative if alone else (path / relative).as_posix()
                    found[row] = path / relative
            elif path.is_file():
                found[path.as_posix()] = path
            else:
                raise ConfigError(
                    "--predict", "no such file or folder", got=name,
                    remedy="Name images or folders of images",
                )  # fmt: skip
        if not found:
            raise ConfigError(
                "--predict", "no images found", got=self.paths,
                remedy="Name images or folders of images",
            )  # fmt: skip
        self._files = [found[row] for row in sorted(found)]
        return [Sample(row, None) for row in sorted(found)]

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode the file of sample `index`."""
        return decode_image(self._files[index])

    def describe(self, index: int) -> str:
        """The path of the file."""
        return str(self._files[index])


def find_images(root: Path) -> Iterator[str]:
    """The images below a folder, as paths relative to it with forward slashes.

    Symbolic links are followed, each real folder once, so that a loop ends.

    Yields:
        Paths in no particular order.
    """
    seen: set[str] = set()
    ignored: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if extension in IMAGE_EXTENSIONS and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()
            elif not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                ignored[extension or "no extension"] += 1
    if ignored:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in ignored.most_common(5))
        log.info("%s: ignored %d files that are no images (%s)", root, ignored.total(), kinds)


def _contents(root: Path) -> str:
    entries = list(root.iterdir())
    folders = sum(entry.is_dir() for entry in entries)
    extensions = sorted({entry.suffix or entry.name for entry in entries if entry.is_file()})
    shown = f" ({', '.join(extensions[:5])})" if extensions else ""
    return f"{folders} folders and {len(entries) - folders} files{shown}"
