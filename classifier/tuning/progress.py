"""What a person sees of a sweep: a live line for each running trial, plain lines elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from classifier.tuning.study import SweepStudy
from classifier.tuning.trials import was_interrupted

log = logging.getLogger(__name__)

# Where nobody watches live, a running trial says so often how far it is.
_PLAIN_SECONDS = 30.0
_FORMAT = "{desc} |{bar:10}| {n_fmt}/{total_fmt} epochs, {remaining} left{postfix}"


@dataclass
class _Line:
    started: float
    said: float
    bar: Any = None


class Progress:
    """Shows the running trials and how each one ended.

    Args:
        study: Knows the best value so far.
        max_epochs: Of a training; None where it has no number.
        num_jobs: Trials at a time.
        noun: What a trial is called.
    """

    def __init__(self, study: SweepStudy, max_epochs: int | None, num_jobs: int, noun: str) -> None:
        self.study = study
        self.settings = study.settings
        self.max_epochs = max_epochs
        self.num_jobs = num_jobs
        self.noun = noun
        self._live = sys.stderr.isatty()
        self._lines: dict[int, _Line] = {}
        self._seconds: list[float] = []

    def started(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial has begun."""
        now = time.monotonic()
        line = _Line(started=now, said=now)
        if self._live:
            columns, rows = shutil.get_terminal_size()
            line.bar = tqdm(
                total=self.max_epochs, desc=f"{self.noun} {number}", leave=False,
                bar_format=_FORMAT, file=sys.stderr, ncols=columns - 1, nrows=rows,
            )  # fmt: skip
        self._lines[number] = line
        drawn = ", ".join(f"{key} = {_shown(value)}" for key, value in params.items())
        log.info("%s %d: %s", self.noun, number, drawn or "the configuration as it is")

    def epoch(self, number: int, epoch: int, value: float) -> None:
        """A trial has told a value."""
        line = self._lines[number]
        metric = f"{self.settings.objective.metric} {value:.4f}"
        best = self._best()
        if line.bar is not None:
            line.bar.set_postfix_str(f"{metric}{best and f', {best}'}", refresh=False)
            line.bar.n = epoch + 1
            line.bar.refresh()
        elif time.monotonic() - line.said >= _PLAIN_SECONDS:
            line.said = time.monotonic()
            of = f"/{self.max_epochs}" if self.max_epochs else ""
            log.info("%s %d: epoch %d%s, %s", self.noun, number, epoch + 1, of, metric)

    def completed(self, number: int, values: Sequence[float]) -> None:
        """A trial came to its end."""
        told = ", ".join(
            f"{objective.metric} {value:.6g}"
            for objective, value in zip(self.settings.objectives, values, strict=True)
        )
        self._ended(number, f"completed, {told}")

    def pruned(self, number: int) -> None:
        """A trial was stopped as one of the worse."""
        self._ended(number, "pruned")

    def failed(self, number: int, reason: str) -> None:
        """A trial failed."""
        self._ended(number, f"failed: {reason}", logging.WARNING)

    def interrupted(self, number: int) -> None:
        """A trial was ended with the sweep."""
        self._ended(number, "interrupted", going_on=False)

    def _ended(
        self, number: int, how: str, level: int = logging.INFO, *, going_on: bool = True
    ) -> None:
        line = self._lines.pop(number, None)
        if line is not None:
            self._seconds.append(time.monotonic() - line.started)
            _close(line)
        ended = sum(t.state.is_finished() and not was_interrupted(t) for t in self.study.counted())
        parts = [
            f"{self.noun} {number} {how}",
            self._best(),
            f"{ended} of {self.settings.n_trials}",
            self._left(self.settings.n_trials - ended) if going_on else "",
        ]
        log.log(level, "%s", "; ".join(part for part in parts if part))

    def _best(self) -> str:
        if len(self.settings.objectives) > 1 or self.noun != "trial":
            return ""
        best = self.study.best()
        return f"best {best.value:.6g} (trial {best.number})" if best is not None else ""

    def _left(self, trials: int) -> str:
        if trials <= 0 or not self._seconds:
            return ""
        seconds = trials * sum(self._seconds) / len(self._seconds) / self.num_jobs
        return f"about {_duration(seconds)} left"

    def close(self) -> None:
        """Take the live lines away."""
        for line in self._lines.values():
            _close(line)


def _close(line: _Line) -> None:
    """Take a live line away; what is printed next begins at the left."""
    if line.bar is not None:
        line.bar.close()
        sys.stderr.write("\r")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
