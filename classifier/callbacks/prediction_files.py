"""The files of predictions: a table as CSV or parquet, and JSON files of single images."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from classifier.callbacks.prediction_rows import (
    ERROR,
    FLAG,
    INDEX,
    LABEL,
    PATH,
    SCORE,
    Column,
    Layout,
    Row,
    cells_of,
    columns_of,
)
from classifier.errors import ConfigError
from classifier.evaluation.settings import SECTION
from classifier.files import replacing, replacing_folder
from classifier.spreadsheets import csv_rows, safe_label, safe_path

SEPARATOR = "|"  # between the labels of an image
CSV, PARQUET, JSON = "csv", "parquet", "json"
TABLES = {CSV: "predictions.csv", JSON: "predictions.csv", PARQUET: "predictions.parquet"}
FOLDER = "predictions"  # of the JSON files
# A row group of a parquet file is held in memory, and each has its entry in the file's footer.
_GROUP_CELLS, _GROUP_ROWS = 4_000_000, 20_000
_CONVERTED_ROWS = 256
_LONGEST_NAME = 240  # bytes; file systems take 255, and a suffix follows

Write = Callable[[Row], None]


def check_format(name: str) -> None:
    """Refuse a format that cannot be written here.

    Args:
        name: Of the settings: csv, parquet or json.

    Raises:
        ConfigError: parquet without pyarrow.
    """
    if name == PARQUET and find_spec("pyarrow") is None:
        raise ConfigError(
            f"{SECTION}.format", "parquet files need pyarrow, which is not installed", got=name,
            remedy="pip install pyarrow, or write csv",
        )  # fmt: skip


# CSV


@contextmanager
def csv_table(file: Path, layout: Layout) -> Iterator[Write]:
    """A CSV table, which has its name when the block ends well.

    Args:
        file: Its final name.
        layout: Of the rows.

    Yields:
        What writes a row.
    """
    columns = columns_of(layout)
    texts = [_text_of(column) for column in columns]
    with csv_rows(file) as write_cells:
        write_cells([column.name for column in columns])

        def write(row: Row) -> None:
            cells = zip(texts, cells_of(row, layout), strict=True)
            write_cells(["" if value is None else text(value) for text, value in cells])

        yield write


def _text_of(column: Column) -> Callable[[Any], str]:
    one = _TEXTS[column.kind]
    if not column.several:
        return one
    return lambda values: SEPARATOR.join(map(one, values))


def _score(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else "nan"


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


_TEXTS: dict[str, Callable[[Any], str]] = {
    PATH: safe_path, LABEL: safe_label, INDEX: str, SCORE: _score, ERROR: _one_line, FLAG: str,
}  # fmt: skip


# Parquet


@contextmanager
def parquet_table(file: Path, layout: Layout) -> Iterator[Write]:
    """The same table with real types, written in row groups; needs pyarrow.

    Cells of several labels are lists. An empty cell is null. Paths are those of the CSV table, so
    that tables of both formats can be compared; labels are as they are.

    Args:
        file: Its final name.
        layout: Of the rows.

    Yields:
        What takes a row.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    columns = columns_of(layout)
    types = {
        PATH: pa.string(), LABEL: pa.string(), INDEX: pa.int64(), SCORE: pa.float64(),
        ERROR: pa.string(), FLAG: pa.bool_(),
    }  # fmt: skip
    schema = pa.schema(
        (_valid(c.name), pa.list_(types[c.kind]) if c.several else types[c.kind]) for c in columns
    )
    rows_of_a_group = max(1, min(_GROUP_ROWS, _GROUP_CELLS // len(columns)))
    rows: list[list[Any]] = []
    group: list[Any] = []

    def convert() -> None:
        """Take up the rows as arrays, which are a quarter of the size."""
        if rows:
            values = zip(*rows, strict=True)
            arrays = [pa.array(v, type=field.type) for v, field in zip(values, schema, strict=True)]
            group.append(pa.record_batch(arrays, schema=schema))
            rows.clear()

    with replacing(file) as temporary, ParquetWriter(temporary, schema) as writer:

        def write_group() -> None:
            convert()
            if group:
                writer.write_table(pa.Table.from_batches(group))
                group.clear()

        def write(row: Row) -> None:
            path, *others = cells_of(row, layout)
            rows.append([_valid(value) for value in (safe_path(path), *others)])
            if len(rows) >= _CONVERTED_ROWS:
                convert()
            if len(rows) + sum(batch.num_rows for batch in group) >= rows_of_a_group:
                write_group()

        yield write
        write_group()


def _valid(value: Any) -> Any:
    r"""Text as UTF-8, which parquet demands: other bytes of a file's name become `\xff`."""
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# JSON


@contextmanager
def image_files(folder: Path, layout: Layout) -> Iterator[Write]:
    """A JSON file for each image, all of which appear when the block ends well.

    Args:
        folder: Where they go; there is none of this name yet.
        layout: Of the rows.

    Yields:
        What writes the file of a row.
    """
    with replacing_folder(folder) as temporary:

        def write(row: Row) -> None:
            file = _free_file(temporary, row.path)
            file.write_text(json.dumps(_content(row, layout), indent=2) + "\n", encoding="utf-8")

        yield write


def _content(row: Row, layout: Layout) -> dict[str, Any]:
    names, answer = layout.class_names, row.answer
    content: dict[str, Any] = {"path": row.path, "file": row.file}
    if answer is None:
        content |= {"label": None, "predictions": []}
    else:
        labels = [names[index] for index in answer.chosen]
        content["label"] = labels if layout.several else labels[0]
        content["predictions"] = [
            {"label": names[index], "index": index, "probability": _number(answer, index)}
            for index in answer.order[: layout.num_ranks]
        ]
    content["error"] = row.error or None
    if layout.with_truth:
        true = None if row.target is None else [names[index] for index in row.target]
        content["target"] = true if layout.several or not true else true[0]
        content["correct"] = row.correct()
    if layout.abstain_below is not None:
        content["undecided"] = row.undecided(layout)
    return content


def _number(answer: Any, index: int) -> float | None:
    """JSON has no nan. Digits as in the table."""
    value = answer.probabilities[index]
    return float(_score(value)) if math.isfinite(value) else None


def _free_file(root: Path, path: str) -> Path:
    """The file of an image: `<path>.json` below the root, whatever the path looks like.

    The whole name is kept, so that a.jpg and a.png have files of their own; an image that is listed
    twice has a second file with a number.

    Args:
        root: Where all of them are.
        path: Of the image; with forward slashes, perhaps absolute or with `..`.
    """
    *folders, name = path.split("/")
    folder = root.joinpath(*map(_folder_name, folders))
    folder.mkdir(parents=True, exist_ok=True)
    stem = _short(name or "_root")
    file, number = folder / f"{stem}.json", 1
    while file.exists():
        number += 1
        file = folder / f"{stem}.{number}.json"
    return file


_SPECIAL = {"": "_root", ".": "_here", "..": "_up"}
_LIKE_SPECIAL = re.compile(r"_+(?:root|here|up)|.*\.json_*", flags=re.DOTALL)


def _folder_name(part: str) -> str:
    """A part of a path as the name of a folder: no two parts have the same, and none climbs.

    `x.json` becomes `x.json_`: it may be the file of an image `x`.
    """
    if part in _SPECIAL:
        return _SPECIAL[part]
    if _LIKE_SPECIAL.fullmatch(part):
        part = f"_{part}" if part.startswith("_") and ".json" not in part else f"{part}_"
    return _short(part)


def _short(name: str) -> str:
    """A name that file systems take: of a longer one the beginning, and a hash of the whole."""
    name = name.replace("\0", "_")
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    beginning = encoded[: _LONGEST_NAME - len(digest) - 1]
    return f"{os.fsdecode(beginning)}~{digest}"
