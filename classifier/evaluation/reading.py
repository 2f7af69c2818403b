"""The table of predictions, read back: what the figures are made of."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import ConfigError, reason_of
from classifier.evaluation.results import MULTICLASS, MULTILABEL, Predictions

SEPARATOR = "|"  # between the labels of an image
PARQUET = ".parquet"
_PREFIX = "prob_"
_TEXT = ("path", "index", "error", "target")
# Columns after the truth, which are filled for every image that was predicted.
_LAST = ("correct", "undecided", "fold")
_SLACK = 1e-3  # of a probability: sums of rounded numbers are not quite 1
_AGAIN = "Have it written anew: python main.py --test --ckpt_path RUN, or --val"


@dataclass(frozen=True)
class _Table:
    """What a file holds.

    Args:
        file: Its name.
        names: Of the classes.
        texts: Column -> (N,) texts, empty where there is nothing.
        probabilities: (N, C) float64; nan where there is no number.
        looks: The task that the columns tell; None where they do not.
        first_row: Number of the first image's row, as an editor or a spreadsheet shows it.
    """

    file: Path
    names: list[str]
    texts: dict[str, NDArray[Any]]
    probabilities: NDArray[np.float64]
    looks: str | None
    first_row: int

    def damaged(self, place: int, problem: str, got: Any) -> ConfigError:
        """A mistake in the row of an image.

        Args:
            place: Of the image, from 0.
            problem: What is wrong.
            got: What stands there.
        """
        key = f"{self.file.as_posix()} row {place + self.first_row}"
        return ConfigError(key, problem, got=got, remedy=_AGAIN)


def read_predictions(
    file: Path, task: str | None, class_names: Sequence[str] | None = None
) -> Predictions:
    """Read a table of predictions whose truth is known.

    Args:
        file: predictions.csv or predictions.parquet as this program writes it.
        task: multiclass or multilabel; None takes it from the table.
        class_names: None takes them from the columns.

    Raises:
        ConfigError: no such table, one without truth or probabilities, or a damaged one.
    """
    table = _read_parquet(file) if file.suffix == PARQUET else _read_csv(file)
    names = table.names
    if class_names is not None and list(class_names) != names:
        raise ConfigError(
            str(file), f"has the classes {', '.join(names)}, expected {', '.join(class_names)}"
        )
    failed = table.texts["error"] != ""
    places = np.flatnonzero(~failed)
    _check_whole(table, places)
    several = (task or _task_of(table, places)) == MULTILABEL
    paths = table.texts["path"]
    return Predictions(
        class_names=tuple(names),
        task=MULTILABEL if several else MULTICLASS,
        paths=list(paths[places]),
        probabilities=table.probabilities[places] if failed.any() else table.probabilities,
        targets=_classes(table, "target", places, several=several),
        predicted=_classes(table, "index", places, several=several),
        failed=list(zip(paths[failed], table.texts["error"][failed], strict=True)),
    )


# Files


def _read_csv(file: Path) -> _Table:
    """A CSV file. Texts stay Python's own: others refuse names that are no valid UTF-8."""
    import pandas as pd

    header = next(_rows_of(file), [])
    names, kept = _columns(file, header)
    numbers = [f"{_PREFIX}{name}" for name in names]
    text_places = [header.index(name) for name in kept]
    number_places = [header.index(name) for name in numbers]
    missing: dict[Any, list[str]] = {place: ["", "nan"] for place in number_places}
    try:
        frame = pd.read_csv(
            file,
            header=0,
            names=range(len(header)),
            usecols=[*text_places, *number_places],
            dtype=dict.fromkeys(text_places, object) | dict.fromkeys(number_places, np.float64),
            keep_default_na=False,
            na_values=missing,
            encoding_errors="surrogateescape",
        )
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        _find_damage(file, header, numbers)
        raise ConfigError(
            file.as_posix(), f"is damaged: {reason_of(error)}", remedy=_AGAIN
        ) from error
    # Column by column: pandas would make three copies of them all.
    probabilities = np.stack([frame[place].to_numpy() for place in number_places], axis=1)
    texts = {name: frame[header.index(name)].to_numpy(dtype=object) for name in kept}
    good = texts["error"] == ""
    if np.isnan(probabilities[good]).any():  # "nan", of a model that has diverged, or nothing
        _find_damage(file, header, numbers)
    # Images of several labels have no second best.
    looks = MULTICLASS if "label_2" in header else None
    return _Table(file, names, texts, probabilities, looks, first_row=2)


def _rows_of(file: Path) -> Iterator[list[str]]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            yield from csv.reader(stream)
    except (csv.Error, OSError) as error:
        raise ConfigError(
            file.as_posix(), f"cannot be read as CSV: {reason_of(error)}", remedy=_AGAIN
        ) from error


def _columns(file: Path, header: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classes, and the columns of text that are read."""
    lacking = [name for name in _TEXT if name not in header]
    names = [name.removeprefix(_PREFIX) for name in header if name.startswith(_PREFIX)]
    if lacking or not names:
        missing = lacking or [f"{_PREFIX}<class>"]
        raise ConfigError(
            file.as_posix(), f"has no column {' and no '.join(missing)}",
            remedy="Give the predictions of --test or --val; --predict knows no truth",
        )  # fmt: skip
    if len(set(header)) < len(header):
        raise ConfigError(file.as_posix(), "has a column twice", remedy=_AGAIN)
    return names, [name for name in header if name in _TEXT or name in _LAST]


def _find_damage(file: Path, header: Sequence[str], numbers: Sequence[str]) -> None:
    """Name the first row that ends early, or has no probability where there should be one."""
    rows = _rows_of(file)
    next(rows, None)
    error = header.index("error")
    places = {name: header.index(name) for name in numbers}
    for number, row in enumerate(rows, start=2):
        key = f"{file.as_posix()} row {number}"
        if row and len(row) != len(header):
            raise ConfigError(key, f"must have {len(header)} cells", got=len(row), remedy=_AGAIN)
        for name, place in places.items() if row else ():
            if (row[place] or not row[error]) and not _is_number(row[place]):
                raise ConfigError(
                    key, f"{name} must be a probability", got=row[place], remedy=_AGAIN
                )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_parquet(file: Path) -> _Table:
    """A parquet file, with the texts that predictions.csv has in its place."""
    if find_spec("pyarrow") is None:
        raise ConfigError(
            file.as_posix(), "is a parquet file, which needs pyarrow to be read",
            remedy="pip install pyarrow",
        )  # fmt: skip
    from pyarrow import ArrowException, parquet, types

    try:
        schema = parquet.read_schema(file)
        names, kept = _columns(file, schema.names)
        numbers = [f"{_PREFIX}{name}" for name in names]
        found = parquet.read_table(file, columns=[*kept, *numbers], partitioning=None)
        columns = [found[name].to_numpy().astype(np.float64) for name in numbers]
    except ConfigError:
        raise
    except (ArrowException, ValueError, TypeError, OSError) as error:
        raise ConfigError(
            file.as_posix(), f"is damaged: {reason_of(error)}", remedy=_AGAIN
        ) from error
    texts = {
        name: _objects([_text(value) for value in found[name].to_pylist()]) for name in kept
    }  # fmt: skip
    several = types.is_list(schema.field("index").type)
    looks = MULTILABEL if several else MULTICLASS
    return _Table(file, names, texts, np.stack(columns, axis=1), looks, first_row=1)


def _objects(values: list[str]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _text(value: Any) -> str:
    if isinstance(value, list):
        return SEPARATOR.join(map(str, value))
    return "" if value is None else str(value)


# Content


def _check_whole(table: _Table, places: NDArray[np.int64]) -> None:
    """Refuse rows that end early, and numbers that are no probabilities.

    Args:
        table: What was read.
        places: Of the images that were predicted.
    """
    for name in table.texts:
        if name in _LAST:
            for place in places[table.texts[name][places] == ""][:1]:
                raise table.damaged(place, f"the row ends early: {name} is missing", "")
    failed = table.texts["error"] != ""
    for place in np.flatnonzero(failed & (table.texts["index"] != ""))[:1]:
        problem = "has a prediction, and an error in its place"
        raise table.damaged(place, problem, table.texts["error"][place])
    numbers = table.probabilities
    outside = ((numbers < -_SLACK) | (numbers > 1 + _SLACK))[places]  # nan is neither
    for row, column in np.argwhere(outside)[:1]:
        place, name = places[row], table.names[column]
        problem = f"{_PREFIX}{name} must be a probability from 0 to 1"
        raise table.damaged(place, problem, float(numbers[place, column]))


def _task_of(table: _Table, places: NDArray[np.int64]) -> str:
    """Multiclass unless a row can only be one of images with any number of labels."""
    if table.looks is not None:
        return table.looks
    cells = [cell for name in ("index", "target") for cell in table.texts[name][places]]
    if any(not cell or SEPARATOR in cell for cell in cells):
        return MULTILABEL
    away = np.abs(table.probabilities[places].sum(axis=1) - 1) > _SLACK
    return MULTILABEL if away.any() else MULTICLASS


def _classes(
    table: _Table, column: str, places: NDArray[np.int64], *, several: bool
) -> NDArray[Any]:
    """(N,) indices; of several labels (N, C) bool."""
    number = len(table.names)
    known = {str(index): index for index in range(number)}
    found = np.zeros((len(places), number) if several else len(places), bool if several else int)
    for row, place in enumerate(places):
        cell = table.texts[column][place]
        parts = (cell.split(SEPARATOR) if cell else []) if several else [cell]
        for part in parts:
            if part not in known:
                problem = f"{column} must be a class from 0 to {number - 1}"
                raise table.damaged(place, problem, cell)
            if several:
                found[row, known[part]] = True
            else:
                found[row] = known[part]
    return found
