"""Data sets of the Hugging Face Hub, and what its library has saved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.data.datasets import Augmentations, ImageDataset, Label, Sample
from classifier.data.decoding import BadImageError, decode_image
from classifier.errors import ConfigError, reason_of

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
            rows = self._table(datasets)
        except ConfigError:
            raise
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = reason_of(error, 300)
            raise ConfigError(
                "name", f"could not be loaded ({reason})", got=self.name,
                remedy="Check the name, the split and the network connection",
            ) from error  # fmt: skip
        return rows.cast_column(self._image_column(rows.features), datasets.Image(decode=False))

    def _table(self, datasets: Any) -> Any:
        """As the library loads it."""
        if (Path(self.name) / "state.json").is_file():
            if self.split != "train":
                raise ConfigError(
                    "split", "the folder holds one data set without splits", got=self.split,
                    remedy="Leave it out, or save a DatasetDict",
                )  # fmt: skip
            return datasets.load_from_disk(self.name)
        if (Path(self.name) / "dataset_dict.json").is_file():
            parts = datasets.load_from_disk(self.name)
            if self.split not in parts:
                raise ConfigError(
                    "split", "the data set has no such split", got=self.split,
                    remedy=f"It has {', '.join(parts)}", name=self.split, options=list(parts),
                )  # fmt: skip
            return parts[self.split]
        return datasets.load_dataset(
            self.name, self.subset, split=self.split, revision=self.revision, data_dir=self.data_dir
        )

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
        if self._label_feature is not None:
            return [str(name) for name in self._label_feature.names]
        occurring: list[str] = super().class_names
        return occurring

    @cached_property
    def _label_feature(self) -> Any:
        """The ClassLabel of the column of labels; None where it is none."""
        column = self._label_column
        return None if column is None else _class_label(self._rows.features[column])

    @cached_property
    def _paths(self) -> list[str]:
        """A distinct name for every row: its path, as far as the table knows one."""
        from pyarrow import compute  # comes with datasets

        # Of the table on disk only the paths are read, not the images' bytes beside them.
        name = self._image_column(self._rows.features)
        table = self._rows.select_columns([name]).with_format("arrow")[:]
        found = compute.struct_field(table.column(name), "path").to_pylist()
        folders = {os.path.dirname(path or "") for path in found}
        whole = len(folders) > 1 and all(map(os.path.isabs, folders))
        root = os.path.commonpath(folders) if whole else None
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
        return paths

    @cached_property
    def _order(self) -> list[int]:
        """The rows by their paths, as predictions.csv has them."""
        return sorted(range(len(self._paths)), key=lambda row: self._paths[row])

    def scan(self) -> Sequence[Sample]:
        """Paths and labels of all rows, in the order of their paths."""
        column, feature = self._label_column, self._label_feature
        values = [None] * len(self._rows) if column is None else list(self._rows[column])
        return [Sample(self._paths[row], _label(values[row], feature)) for row in self._order]

    def load(self, index: int) -> NDArray[np.uint8]:
        """Decode sample `index`."""
        return decode_image(self._bytes(index), self.min_side, self.background)

    def fingerprint(self, index: int) -> bytes:
        """16 bytes, equal for equal files."""
        return hashlib.blake2b(self._bytes(index), digest_size=16).digest()

    def _bytes(self, index: int) -> bytes:
        image = self._rows[self._order[index]][self._image_column(self._rows.features)]
        if image is None or not (image["bytes"] or image["path"]):
            raise BadImageError("the row has no image")
        return image["bytes"] or Path(image["path"]).read_bytes()


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
