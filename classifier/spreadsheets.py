"""CSV files: RFC 4180, whole or not at all, and nothing in them that a spreadsheet would run."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifier.files import replacing

# Source: OWASP, CSV Injection: what a cell must not begin with.
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_NUMBER = re.compile(r"^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$")


def safe_path(path: str) -> str:
    """A path that no spreadsheet takes for a formula, and that still leads to the file.

    Args:
        path: Of an image.
    """
    return f"./{path}" if _FORMULA.match(path) else path


def safe_label(label: str) -> str:
    """A text that no spreadsheet takes for a formula; numbers stay as they are.

    Args:
        label: A class name, or words of the user's own.
    """
    return f"'{label}" if _FORMULA.match(label) and not _NUMBER.match(label) else label


@contextmanager
def csv_rows(file: Path) -> Iterator[Callable[[Sequence[Any]], Any]]:
    """A CSV file that takes a row at a time, and has its name when the block ends well.

    The cells are written as they are: who uses it makes them safe.

    Args:
        file: Its final name.

    Yields:
        What writes a row.
    """
    # Names that are no valid UTF-8 keep their bytes.
    with (
        replacing(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield csv.writer(stream, lineterminator="\r\n").writerow


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table in which no text is taken for a formula.

    Args:
        file: Its name.
        header: Of the columns; class names among them are made safe too.
        rows: Cells in the order of the columns; None is an empty one. Paths are to come from
            `safe_path`, so that they still lead to their files.
    """
    with csv_rows(file) as write:
        write([_cell(name) for name in header])
        for row in rows:
            write([_cell(value) for value in row])


def _cell(value: Any) -> Any:
    return safe_label(value) if isinstance(value, str) else value
