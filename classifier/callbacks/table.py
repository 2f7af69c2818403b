"""metrics.csv: one row per logged step and epoch, kept across a resume."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from classifier.files import replacing

_FIRST = ("epoch", "step")


class MetricsTable(Logger):
    """Writes metrics.csv into the run folder as the values come.

    Lightning's CSVLogger deletes the file on a resume, and gives an epoch two half-empty rows, one
    for training and one for validation. Here what belongs to one step stands in one row.

    Args:
        folder: The run folder.
        history: metrics.csv of the run that is resumed; its rows come first.
        until_step: Rows of later steps are left out: they will be made again.
    """

    def __init__(self, folder: Path, history: Path | None = None, until_step: int = 0) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self._fields: list[str] = []
        self._last: dict[str, Any] = {}
        self._last_offset = 0
        if history is not None and history.is_file():
            rows = [row for row in read_rows(history) if int(row["step"]) < until_step]
            if rows:
                self._start(rows, list(rows[0]))

    @property
    def name(self) -> str:
        """The table has no name of its own."""
        return ""

    @property
    def version(self) -> str:
        """The run folder is the version."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values, into the row of their step where it is the last one.

        Args:
            metrics: Values by name.
            step: Batches that have stepped so far, from 0.
        """
        row: dict[str, Any] = {name: float(value) for name, value in metrics.items()}
        row["step"] = step or 0
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        merging = self._last.get("step") == row["step"]
        if merging:
            row = {**self._last, **row}
            with self.file.open("rb+") as file:
                file.truncate(self._last_offset)
        if not set(row) <= set(self._fields):
            names = sorted({*self._fields, *row} - set(_FIRST))
            self._start(read_rows(self.file) if self.file.is_file() else [], [*_FIRST, *names])
        self._last_offset = self.file.stat().st_size
        with self.file.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._fields).writerow(row)
        self._last = row

    def _start(self, rows: Iterable[Mapping[str, Any]], fields: list[str]) -> None:
        """Write the header and all rows so far, whole or not at all."""
        self._fields = fields
        with replacing(self.file) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(file: Path) -> list[dict[str, str]]:
    """All rows of a metrics.csv."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
