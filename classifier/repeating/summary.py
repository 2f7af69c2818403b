"""What several trainings come to: mean, spread and range of every metric."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classifier.repeating.running import COMPLETED, Trained
from classifier.runs import Result
from classifier.spreadsheets import write_csv
from classifier.terminal import show

_SHOWN = ("validation_", "test_")


@dataclass
class RepeatResult(Result):
    """What folds or repeats came to: returned by `main`, and the content of result.json.

    `metrics` are the means over all trainings that completed; `predictions` are out of fold.

    Args:
        num_parts: Folds or seeds that were asked for.
        num_completed: Of these, how many have a result.
        summary: Metric -> mean, std (of the sample; None for a single value), min, max and
            values, one for each training that has it.
        parts: For each training its fold or seed, status, output_dir (relative to this folder),
            metrics and error.
        label_issues: Path of label_issues.csv relative to the folder.
        num_label_issues: Images that it lists.
    """

    num_parts: int = 0
    num_completed: int = 0
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    label_issues: str | None = None
    num_label_issues: int | None = None


def summarise(result: RepeatResult, trained: Sequence[Trained]) -> None:
    """Fill in what the trainings came to.

    Args:
        result: Of the whole.
        trained: In the order of the parts.
    """
    folder = Path(result.output_dir)
    complete = [one for one in trained if one.status == COMPLETED]
    result.num_parts, result.num_completed = len(trained), len(complete)
    result.summary = spread_of([one.metrics for one in complete])
    result.metrics = {name: found["mean"] for name, found in result.summary.items()}
    result.parts = [
        {
            one.part.kind: one.part.number,
            "status": one.status,
            "output_dir": one.part.folder.relative_to(folder).as_posix(),
            "num_epochs": one.num_epochs,
            "wall_seconds": one.wall_seconds,
            "metrics": dict(one.metrics),
            "error": one.error,
        }
        for one in trained
    ]


def spread_of(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation, range and values of every metric.

    Args:
        found: The metrics of each training.
    """
    summary = {}
    for name in sorted({name for metrics in found for name in metrics}):
        values = [metrics[name] for metrics in found if name in metrics]
        summary[name] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "values": values,
        }
    return summary


def write_table(file: Path, parts: Sequence[Mapping[str, Any]]) -> None:
    """Write a row for each training: what it is, how it ended, and every metric.

    Args:
        file: A CSV file.
        parts: As in a RepeatResult.
    """
    names = sorted({name for part in parts for name in part["metrics"]})
    facts = [key for key in parts[0] if key not in ("metrics", "error")]
    rows = []
    for part in parts:
        cells = [part[key] for key in facts] + [part["metrics"].get(name) for name in names]
        rows.append([*cells, part["error"].replace("\n", " ")])
    write_csv(file, [*facts, *names, "error"], rows)


def print_summary(result: RepeatResult, noun: str) -> None:
    """Print mean, spread and range of what was measured on validation and test images.

    Args:
        result: Of the whole.
        noun: What the parts are called.
    """
    told = f"{result.num_completed} of {result.num_parts} {noun}"
    show(f"{told}: mean +- standard deviation (lowest to highest)" if result.summary else told)
    for name, text in described(result):
        show(f"{name}: {text}")
    for sentence in result.verdicts.values():
        show(f"All folds together: {sentence}")
    if result.num_label_issues is not None:
        show(f"{result.num_label_issues} images have a label that is likely wrong")
    for what in ("report", "predictions", "label_issues"):
        name = getattr(result, what)
        if name is not None:
            show(f"{what}: {Path(result.output_dir, name).as_posix()}")


def described(result: RepeatResult) -> Iterator[tuple[str, str]]:
    """What was measured on validation and test images, as people read it.

    Args:
        result: Summarised.
    """
    for name, found in result.summary.items():
        if name.startswith(_SHOWN):
            spread = "" if found["std"] is None else f" +- {found['std']:.2g}"
            yield name, f"{found['mean']:.4g}{spread} ({found['min']:.4g} to {found['max']:.4g})"
