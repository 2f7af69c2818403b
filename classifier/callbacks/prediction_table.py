"""The table of predictions as it is filled, row by row, and what a run's result says of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from classifier.callbacks.prediction_files import (
    FOLDER,
    JSON,
    PARQUET,
    TABLES,
    Write,
    csv_table,
    image_files,
    parquet_table,
)
from classifier.callbacks.prediction_rows import Answer, Layout, Row
from classifier.evaluation.settings import TOP_K, TOP_K_OF_FILES, EvaluationSettings
from classifier.runs import Result

log = logging.getLogger(__name__)


class PredictionTable:
    """Takes a row per image, and gives its files their names when it is closed.

    Args:
        folder: Where predictions.csv goes, or predictions.parquet, and the folder predictions with
            the JSON files. What is not closed well leaves nothing of these names.
        settings: format, top_k and abstain_below of the section evaluation.
    """

    def __init__(self, folder: Path, settings: EvaluationSettings) -> None:
        self.settings = settings
        self.folder = folder
        self.file = folder / TABLES[settings.format]
        self.num_rows = 0
        self.num_undecided = 0
        self.num_not_numbers = 0
        self.failed: list[str] = []
        self._open = ExitStack()
        self._writes: list[Write] = []

    def start(self, class_names: Sequence[str], *, several: bool, with_truth: bool) -> None:
        """Open the files.

        Args:
            class_names: In the order of the probabilities.
            several: Whether an image may have any number of classes.
            with_truth: Whether the right answers are known.
        """

        def layout(top_k: int) -> Layout:
            most = min(self.settings.top_k or top_k, len(class_names))
            return Layout(class_names, several, most, with_truth, self.settings.abstain_below)

        self._layout = layout(TOP_K)
        table = parquet_table if self.settings.format == PARQUET else csv_table
        self._writes = [self._open.enter_context(table(self.file, self._layout))]
        if self.settings.format == JSON:
            files = image_files(self.folder / FOLDER, layout(TOP_K_OF_FILES))
            self._writes.append(self._open.enter_context(files))

    def write(self, row: Row) -> None:
        """Write a row."""
        for write in self._writes:
            write(row)
        self.num_rows += 1
        self.num_undecided += bool(row.undecided(self._layout))
        if row.error:
            self.failed.append(row.path)
        if row.answer is not None:
            self.num_not_numbers += not all(map(math.isfinite, row.answer.probabilities))

    def close(self) -> None:
        """Give the files their names."""
        self._open.close()

    def discard(self, error: BaseException) -> None:
        """Throw what is half written away.

        Args:
            error: What ended the run.
        """
        self._open.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def tell(self, result: Result) -> None:
        """Put what was predicted into a run's result, and warn of images that could not be.

        Args:
            result: Of the run, when all is written.
        """
        result.predictions = self.file.name
        result.num_images, result.num_errors = self.num_rows, len(self.failed)
        if self.settings.abstain_below is not None:
            result.num_undecided = self.num_undecided
        if self.num_not_numbers:
            log.warning(
                "the probabilities of %d of %d images are not numbers: the model has diverged",
                self.num_not_numbers, self.num_rows,
            )  # fmt: skip
        if self.failed:
            log.warning(
                "%d of %d images could not be decoded: %s; the column error says why",
                len(self.failed), self.num_rows, ", ".join(self.failed[:5]),
            )  # fmt: skip


def answer_of(probabilities: Sequence[float], decisions: Iterable[bool] | None) -> Answer:
    """What a model says of an image.

    Args:
        probabilities: One for each class.
        decisions: Which classes it has; None for the likeliest alone.
    """
    order = sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index))
    if decisions is None:
        return Answer(probabilities, order, order[:1])
    has = list(decisions)
    return Answer(probabilities, order, [index for index in order if has[index]])
