"""Images of other libraries: the Hugging Face Hub's data sets, and torchvision's."""

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

from classifier.data.datasets import Augmentations, ImageDataset, Label, Sample
from classifier.data.decoding import BadImageError, decode_image, rgb_pixels
from classifier.errors import ConfigError

# What torchvision's classes call their class indices, in the order in which to look.
_TARGETS = ("targets", "labels", "_labels", "y")
_NAMES = ("classes", "categories", "all_categories")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


class HuggingFaceDataset(ImageDataset):
    """A data set of the Hugging Face Hub, an `imagefolder`, or a `save_to_disk` folder.

    Needs the package `datasets`.

    Args:
        name: `<org>/<name>` on the Hub, `imagefolder` (with data_dir), or a folder that
            save_to_disk wrote.
        split: Which of its splits; of the Hub also slices such as `train[:80%]`.
        image_column: null takes the only column of images.
        target_column: null takes the only column of class labels, else one that is called label or
            labels. A column of lists is multi-label.
        subset: Its configuration name, where it has several.
        revision: Commit, branch or tag on the Hub.
        data_dir: Folder of an imagefolder.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    finds_copies = True

    def __init__(
        self,
        name: str,
        split: str = "train",
        image_column: str | None = None,
        target_column: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        data_dir: str | None = None,
        augmentations: Augmentations | None = None,
    ) -> None:
        super().__init__(augmentations)
        self.name = name
        self.split = split
        self.image_column = image_column
        self.target_column = target_column
        self.subset = subset
        self.revision = revision
        self.data_dir = data_dir

    @cached_property
    def _rows(self) -> Any:
        """The table, its images as bytes or paths and not decoded."""
        datasets = _datasets_library()
        try:
            if (Path(self.name) / "state.json").is_file():
                if self.split != "train":
                    raise ConfigError(
                        "split", "the folder holds one data set without splits", got=self.split,
                        remedy="Leave it out, or save a DatasetDict",
                    )  # fmt: skip
                rows = datasets.load_from_disk(self.name)
            elif (Path(self.name) / "dataset_dict.json").is_file():
                parts = datasets.load_from_disk(self.name)
                if self.split not in parts:
                    raise ConfigError(
                        "split", "the data set has no such split", got=self.split,
                        remedy=f"It has {', '.join(parts)}", name=self.split, options=list(parts),
                    )  # fmt: skip
                rows = parts[self.split]
            else:
                rows = datasets.load_dataset(
                    self.name, self.subset, split=self.split, revision=self.revision,
                    data_dir=self.data_dir,
                )  # fmt: skip
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ConfigError(
                "name", f"could not be loaded ({reason})", got=self.name,
                remedy="Check the name, the split and the network connection",
            ) from error  # fmt: skip
        return rows.cast_column(self._image_column(rows.features), datasets.Image(decode=False))

    def _image_column(self, features: Any) -> str:
        kind = _datasets_library().Image
        columns = [name for name, feature in features.items() if isinstance(feature, kind)]
        name = self.image_column or (columns[0] if len(columns) == 1 else None)
        if name is None or name not in columns:
            raise ConfigError(
                "image_column", "is no column of images", got=name,
                remedy=f"The columns of images are {', '.join(columns) or 'none'}",
            )  # fmt: skip
        return name

    @cached_property
    def _label_column(self) -> str | None:
        features = self._rows.features
        classes = [name for name, feature in features.items() if _class_label(feature) is not None]
        plain = [name for name in _LABEL_COLUMNS if name in features]
        name = self.target_column or (classes[0] if len(classes) == 1 else next(iter(plain), None))
        if (name is None and classes) or (name is not None and name not in features):
            raise ConfigError(
                "target_column", "which column holds the labels?", got=name,
                remedy=f"The columns are {', '.join(features)}", name=str(name),
                options=list(features),
            )  # fmt: skip
        return name

    @cached_property
    def class_names(self) -> list[str]:
        """The names of the column's class labels in its own order; else what occurs, sorted."""
        column = self._label_column
        feature = _class_label(self._rows.features[column]) if column is not None else None
        if feature is not None:
            return [str(name) for name in feature.names]
        occurring: list[str] = super().class_names
        return occurring

    def scan(self) -> Sequence[Sample]:
        """Paths and labels of all rows, in the data set's order."""
        from pyarrow import compute  # comes with datasets

        rows, column = self._rows, self._label_column
        # Of the table on disk only the paths are read, not the images' bytes beside them.
        name = self._image_column(rows.features)
        table = rows.select_columns([name]).with_format("arrow")[:]
        found = compute.struct_field(table.column(name), "path").to_pylist()
        folders = {os.path.dirname(path) for path in found if path}
        root = os.path.commonpath(folders) if len(folders) > 1 and all(folders) else None
        paths = [
            f"{index:08d}"
            if not path
            else Path(path).name
            if root is None
            else Path(os.path.relpath(path, root)).as_posix()
            for index, path in enumerate(found)
        ]
        if len(set(paths)) < len(paths):
            paths = [f"{index:08d}/{path}" for index, path in enumerate(paths)]
        values = [None] * len(paths) if column is None else list(rows[column])
        feature = _class_label(rows.features[column]) if column is not None else None
        return [
            Sample(path, _label(value, feature)) for path, value in zip(paths, values, strict=True)
        ]

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode row `index`."""
        return decode_image(self._bytes(index), self.min_side)

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for equal files."""
        return hashlib.blake2b(self._bytes(index), digest_size=16).digest()

    def _bytes(self, index: int) -> bytes:
        image = self._rows[index][self._image_column(self._rows.features)]
        if image is None or not (image["bytes"] or image["path"]):
            raise BadImageError("the row has no image")
        return image["bytes"] or Path(image["path"]).read_bytes()


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
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ConfigError(
                "name", f"cannot be opened in {self.root} ({reason})", got=self.name,
                remedy="Write download: true to fetch it, or the folder that holds it as root",
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
            rgb_pixels(self._source[index][0])
            if file is None
            else decode_image(file, self.min_side)
        )

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for equal files or pixels."""
        file = self.file(index)
        content = self.load(index).tobytes() if file is None else file.read_bytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    def describe(self, index: int) -> str:
        """The file, else the number."""
        return str(self.file(index) or self.samples[index].path)


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


def _datasets_library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "name", "HuggingFaceDataset needs the package datasets, which is not installed",
            remedy="pip install datasets",
        ) from error  # fmt: skip
    return datasets


def _class_label(feature: Any) -> Any:
    """The ClassLabel of a column, also of a column of lists; None where it is none."""
    inner = getattr(feature, "feature", feature)
    return inner if isinstance(inner, _datasets_library().ClassLabel) else None


def _label(value: Any, feature: Any) -> Label:
    if isinstance(value, list | tuple):
        names = (_label(item, feature) for item in value)
        return tuple(dict.fromkeys(str(name) for name in names if name is not None))
    if value is None or (feature is not None and value < 0):
        return None  # the Hub's sign of an unknown label
    return str(feature.names[value]) if feature is not None else str(value)
