"""Out-of-fold predictions: every training image as judged by the model that has not seen it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from classifier.errors import RunError
from classifier.spreadsheets import write_csv

PREDICTIONS = "predictions.csv"
_COLUMN = "fold"


def join_predictions(files: Mapping[int, Path], file: Path) -> int:
    """Write the predictions of all folds as one table, sorted by path, with a column `fold`.

    Args:
        files: Fold -> its table.
        file: Where the whole goes.

    Returns:
        The number of rows.

    Raises:
        RunError: the tables have different columns.
    """
    header: list[str] | None = None
    rows: list[list[str]] = []
    for fold, source in sorted(files.items()):
        with source.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream)
            own = next(reader)
            if header not in (None, own):
                raise RunError(f"{source}: the columns are not those of the other folds")
            header = own
            rows += [[*row, str(fold)] for row in reader]
    assert header is not None
    place = header.index("path")
    numbered = all(row[place].isdecimal() for row in rows)  # images without a file have numbers
    rows.sort(key=lambda row: (int(row[place]) if numbered else 0, _plain(row[place])))
    write_csv(file, [*header, _COLUMN], rows)
    return len(rows)


def _plain(path: str) -> str:
    """A path without what keeps spreadsheets from taking it for a formula."""
    return path.removeprefix("./")
