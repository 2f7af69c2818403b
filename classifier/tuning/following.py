"""What a trial's run folder tells: its values as they come, and how it ended."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.runs import ERROR
from classifier.tuning.launching import OUTPUT

_TAIL_LINES = 15
_TAIL_CHARACTERS = 2000


class MetricsFile:
    """Follows one column of a metrics.csv that is being written.

    Args:
        file: It need not exist yet.
        metric: The column.
    """

    def __init__(self, file: Path, metric: str) -> None:
        self.file = file
        self.metric = metric
        self.epoch: int | None = None
        self._seen: tuple[int, int] | None = None
        self._table: tuple[int, bytes] | None = None  # which file it was, and its header
        self._read = 0  # bytes before the last row, which may come again with more in it
        self._told: set[int] = set()

    def new_values(self) -> list[tuple[int, float]]:
        """(epoch, value) pairs that came since the last call, the first value of each epoch.

        A last line without its end is still being written and is left for the next call. Values
        that are not finite are left out: they are no basis for a decision.
        """
        try:
            status = self.file.stat()
            state = (status.st_mtime_ns, status.st_size)
            if state == self._seen:
                return []
            header, rows = self._new_rows(status)
        except OSError:
            return []
        self._seen = state
        found = []
        for row in _rows((header + rows).decode("utf-8", "replace")):
            epoch = row.get("epoch") or ""
            if not epoch.isdigit():
                continue
            self.epoch = int(epoch)
            value = _number(row.get(self.metric))
            if value is not None and self.epoch not in self._told:
                self._told.add(self.epoch)
                found.append((self.epoch, value))
        return found

    def _new_rows(self, status: os.stat_result) -> tuple[bytes, bytes]:
        """The header, and the rows from the last one on that was there: a long table grows on."""
        with self.file.open("rb") as stream:
            header = stream.readline()
            if (status.st_ino, header) != self._table or status.st_size < self._read:
                self._table, self._read = (status.st_ino, header), len(header)
            stream.seek(self._read)
            rows = stream.read()
        rows = rows[: rows.rfind(b"\n") + 1]
        self._read += rows.rfind(b"\n", 0, -1) + 1
        return header if header.endswith(b"\n") else b"", rows


def _rows(text: str) -> list[dict[str, str | None]]:
    try:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:
        return []  # no table: the trial is judged by its result


@dataclass(frozen=True)
class Outcome:
    """How a trial's process ended.

    Args:
        values: Of the objectives; None when it failed.
        reason: Why it failed, in a line; empty when it did not.
        epochs: Epochs trained; None where unknown.
    """

    values: tuple[float, ...] | None
    reason: str = ""
    epochs: int | None = None


def read_outcome(folder: Path, code: int, metrics: Sequence[str]) -> Outcome:
    """Judge a trial: it counts only with exit code 0 and a whole, finite result.

    Its values are those of its best checkpoint, which is what a trial leaves behind; without a
    monitored checkpoint, those of its end.

    Args:
        folder: The trial's.
        code: Exit status, negative for a signal.
        metrics: Names of the objectives.
    """
    if code < 0:
        return Outcome(None, f"killed by {_signal_name(-code)}")
    if code != 0:
        return Outcome(None, f"exit code {code}: {_said(folder)}")
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Outcome(None, "exit code 0, but there is no result.json")
    except (OSError, ValueError, RecursionError):
        return Outcome(None, "exit code 0, but result.json is no JSON")
    if not isinstance(result, dict) or result.get("status") != "completed":
        return Outcome(None, "exit code 0, but result.json does not say that it completed")
    final, best = (_mapping(result.get(name)) for name in ("metrics", "best_metrics"))
    logged = {**final, **best}
    values = []
    for metric in metrics:
        if metric not in logged:
            names = ", ".join(sorted(logged)) or "none"
            return Outcome(None, f"{metric} was not logged; the metrics are {names}")
        value = _finite(logged[metric])
        if value is None:
            return Outcome(None, f"{metric} is {logged[metric]}, which is not finite")
        values.append(value)
    epochs = result.get("num_epochs")
    return Outcome(tuple(values), epochs=epochs if isinstance(epochs, int) else None)


def tail(folder: Path) -> str:
    """The last lines of what a trial printed."""
    try:
        with open(folder / OUTPUT, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4 * _TAIL_CHARACTERS))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()[-_TAIL_LINES:]
    return "\n".join(lines)[-_TAIL_CHARACTERS:]


def _said(folder: Path) -> str:
    """The message with which the command ended, else the last line that it printed."""
    try:
        return (folder / ERROR).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        lines = [line.strip() for line in tail(folder).splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(text: str | None) -> float | None:
    try:
        return _finite(float(text or ""))
    except ValueError:
        return None
