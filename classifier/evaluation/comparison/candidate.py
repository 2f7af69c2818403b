"""One run that is compared with others, and what is known of its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Candidate:
    """One run that is compared.

    Args:
        source: As the user wrote it.
        name: By which it is told apart.
        tables: Stage -> its predictions, CSV or parquet; None as stage where nothing tells it.
        training: Run folder of the training; None where it is not there.
        evaluated: Folder that the predictions come from.
        config: The training's configuration with what the evaluation changed; without the
            training's folder it lacks the trainer. Empty where nothing is known.
        result: The training's result.json.
        history: Rows of the training's metrics.csv.
    """

    source: str
    name: str
    tables: dict[str | None, Path]
    training: Path | None
    evaluated: Path
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)

    def table(self, stage: str | None) -> Path:
        """The predictions of a stage, or those of which nothing tells the stage."""
        return self.tables[stage if stage in self.tables else None]

    @property
    def best_epoch(self) -> int | None:
        """The epoch, from 1, that the best checkpoint is of; None where it is not known."""
        monitor, score = self.result.get("monitor"), self.result.get("best_score")
        if monitor is None or score is None:
            return None
        for row in self.history:
            # Checkpoints hold float32, tables a few digits more or less.
            if row.get(monitor) and abs(float(row[monitor]) - score) <= 1e-6 * max(1, abs(score)):
                return int(row["epoch"]) + 1  # metrics.csv counts from 0, as Lightning does
        return None

    @property
    def num_parameters(self) -> int | None:
        """Of the model, where the callback ModelCost has logged them."""
        for name in ("best_metrics", "metrics"):
            number = (self.result.get(name) or {}).get("num_parameters")
            if number is not None:
                return int(number)
        return None

    def series(self, column: str) -> tuple[list[int], list[float]]:
        """Epochs, from 1, and values of a column of metrics.csv."""
        rows = [row for row in self.history if row.get(column) and row.get("epoch")]
        return [int(row["epoch"]) + 1 for row in rows], [float(row[column]) for row in rows]
