"""Images that a table lists: CSV or parquet."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.data.datasets import Augmentations, FilesDataset, Label, PackedSamples, Sample
from classifier.errors import ConfigError, reason_of

log = logging.getLogger(__name__)

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": None}
_PARQUET = (".parquet", ".pq")


class CsvImageDataset(FilesDataset):
    """Images and labels listed in a CSV, TSV or parquet file.

    Args:
        table: The file: `.csv`, `.tsv` or `.parquet`, with a header.
        image_column: Column of the image paths, relative to `root`.
        target_column: Column of the labels; null for prediction.
        root: Folder that relative image paths start at; null is the folder of the table.
        split_column: Column that says which split a row belongs to.
        split: The value of split_column whose rows are used.
        group_column: Column of groups (patients, videos); images of one group stay on one side of
            a split.
        delimiter: Separates several labels in one cell, which makes the data multi-label. A list
            column of a parquet file is multi-label by itself.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(
        self,
        table: str,
        image_column: str = "path",
        target_column: str | None = "label",
        root: str | None = None,
        split_column: str | None = None,
        split: str | None = None,
        group_column: str | None = None,
        delimiter: str | None = None,
        augmentations: Augmentations | None = None,
    ) -> None:
        super().__init__(augmentations)
        self.table = table
        self.image_column = image_column
        self.target_column = target_column
        self.root = Path(table).parent if root is None else Path(root)
        self.split_column = split_column
        self.split = split
        self.group_column = group_column
        self.delimiter = delimiter
        if delimiter == "":
            raise ConfigError("delimiter", "is empty", got="", remedy="Write for example ';'")
        if (split_column is None) != (split is None):
            given, missing = ("split", "split_column") if split else ("split_column", "split")
            raise ConfigError(missing, f"is missing beside {given}", remedy="Write both or none")

    @property
    def is_multilabel(self) -> bool:
        """Whether an image can have several labels, or none."""
        return self.delimiter is not None or super().is_multilabel

    def scan(self) -> Sequence[Sample]:
        """Read the table; rows in the order of their paths.

        Raises:
            ConfigError: no such table, column, split or image file, or a row without a path.
        """
        frame = _read(self.table)
        for name in ("image_column", "target_column", "split_column", "group_column"):
            _check_column(frame, name, getattr(self, name))
        if self.split_column is not None:
            frame = self._rows_of_split(frame)
        if frame.empty:
            raise ConfigError("table", "has no rows", got=self.table)
        paths = [_text(value) for value in frame[self.image_column]]
        if "" in paths:
            raise ConfigError(
                "image_column", f"row {paths.index('') + 1} names no image", got=self.image_column,
            )  # fmt: skip
        labels = (
            [None] * len(paths)
            if self.target_column is None
            else [self._label(value) for value in frame[self.target_column]]
        )
        groups = (
            [None] * len(paths)
            if self.group_column is None
            else [_text(value) or None for value in frame[self.group_column]]
        )
        self._check_files(paths)
        self._tell_of_delimiters(labels)
        order = sorted(range(len(paths)), key=paths.__getitem__)
        return PackedSamples(Sample(paths[row], labels[row], groups[row]) for row in order)

    def file(self, index: int) -> Path:
        """The file of sample `index`."""
        return self.root / self.samples[index].path

    def _rows_of_split(self, frame: Any) -> Any:
        values = frame[self.split_column].map(_text)
        rows = frame[values == str(self.split)]
        if rows.empty:
            names = sorted(set(values))
            raise ConfigError(
                "split", f"no row of {self.table} has this value in {self.split_column}",
                got=self.split, remedy=f"The values are {', '.join(names[:10])}",
                name=str(self.split), options=names,
            )  # fmt: skip
        return rows

    def _label(self, value: Any) -> Label:
        if isinstance(value, list | tuple | np.ndarray):
            return _distinct(_text(item) for item in value)
        text = _text(value).strip()
        if self.delimiter is not None:
            return _distinct(part.strip() for part in text.split(self.delimiter))
        return text or None

    def _check_files(self, paths: Sequence[str]) -> None:
        missing = [path for path in paths if not os.path.isfile(os.path.join(self.root, path))]
        if len(missing) == len(paths):
            raise ConfigError(
                "root", f"none of the {len(paths)} images that {self.table} lists is there, for "
                f"example {self.root / missing[0]}",
                got=str(self.root), remedy="Write the folder that the paths start at",
            )  # fmt: skip
        if missing:
            raise ConfigError(
                "table", f"{len(missing)} of the {len(paths)} images that it lists are not in "
                f"{self.root}: {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}",
                got=self.table, remedy="Correct or remove these rows",
            )  # fmt: skip

    def _tell_of_delimiters(self, labels: Sequence[Label]) -> None:
        """Warn where one label looks like several of the others, written into one cell."""
        names = {label for label in labels if isinstance(label, str)}
        for sign in ";|,":
            for name in sorted(names):
                parts = [part.strip() for part in name.split(sign)]
                if len(parts) > 1 and names.issuperset(parts):
                    log.warning(
                        "%s: the label %r looks like several: is delimiter: %r meant?",
                        self.table, name, sign,
                    )  # fmt: skip
                    return


def _read(table: str) -> Any:
    """The table, every cell of a text file as text."""
    import pandas as pd

    file = Path(table)
    if not file.is_file():
        raise ConfigError(
            "table", "no such file", got=table, remedy=f"Relative paths start at {os.getcwd()}"
        )
    kind = file.suffix.lower()
    if kind not in (*_SEPARATORS, *_PARQUET):
        raise ConfigError(
            "table", "is no table", got=table, remedy="Give a .csv, .tsv or .parquet file"
        )
    try:
        if kind in _PARQUET:
            return pd.read_parquet(file)
        separator = _SEPARATORS[kind]
        return pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig",
            index_col=False,
            engine="python" if separator is None else "c",
        )  # fmt: skip
    except ImportError as error:
        raise ConfigError(
            "table", "parquet files need pyarrow, which is not installed", got=table,
            remedy="pip install pyarrow",
        ) from error  # fmt: skip
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = reason_of(error)
        raise ConfigError("table", f"cannot be read ({reason})", got=table) from error


def _check_column(frame: Any, key: str, name: str | None) -> None:
    columns = [str(column) for column in frame.columns]
    if name is not None and name not in columns:
        raise ConfigError(
            key, "the table has no such column", got=name,
            remedy=f"The columns are {', '.join(columns)}", name=name, options=columns,
        )  # fmt: skip


def _text(value: Any) -> str:
    """A cell as text, nothing for a missing one; whole numbers of a float column without `.0`."""
    from pandas import isna

    if isna(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _distinct(names: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
