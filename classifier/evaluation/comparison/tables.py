"""The tables of a comparison: runs, pairs, and where their configurations differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.evaluation.comparison.candidate import Candidate
from classifier.evaluation.comparison.verdicts import Comparison, Difference
from classifier.evaluation.results import Estimate
from classifier.spreadsheets import write_csv

Rows = list[dict[str, Any]]

# Names and places of a run, which differ in any case.
_NOT_COMPARED = ("custom_folder_name", "ckpt_path")


def run_rows(candidates: Sequence[Candidate], comparison: Comparison, stage: str | None) -> Rows:
    """A row for each run: its figures with their intervals, and what is known of its training."""
    rows = []
    for one in candidates:
        row: dict[str, Any] = {"run": one.name, "stage": stage, "num_images": comparison.num_images}
        for metric, estimate in comparison.estimates[one.name].items():
            row |= _estimate(metric, estimate)
        rows.append(row | {
            "seed": one.result.get("seed"), "best_epoch": one.best_epoch,
            "num_epochs": one.result.get("num_epochs"), "num_parameters": one.num_parameters,
            "wall_seconds": one.result.get("wall_seconds"),
            "training": one.training.as_posix() if one.training else None,
            "predictions": one.table(stage).as_posix(),
        })  # fmt: skip
    return rows


def pair_rows(comparison: Comparison) -> Rows:
    """A row for each pair and metric."""
    return [
        {
            "metric": difference.metric, "run_a": difference.first, "run_b": difference.second,
            "value_a": comparison.estimates[difference.first][difference.metric].value,
            "value_b": comparison.estimates[difference.second][difference.metric].value,
            **_estimate("difference", difference.estimate), "better": difference.better,
            "num_images": comparison.num_images, "verdict": verdict(difference, comparison),
        }
        for difference in comparison.differences
    ]  # fmt: skip


def _estimate(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def verdict(difference: Difference, comparison: Comparison) -> str:
    """What may be said of two runs on one metric, with its interval."""
    value, low, high = difference.estimate.value, difference.estimate.low, difference.estimate.high
    assert low is not None and high is not None
    first, second, metric = difference.first, difference.second, difference.metric
    if difference.better is None:
        shown = f"{value:.3f} ({_interval(low, high)}, {comparison.num_images} images)"
        return f"no difference shown: {first} minus {second} on {metric} is {shown}"
    if difference.better == second:
        first, second = second, first
    size = sorted([abs(low), abs(high)])
    shown = f"{abs(value):.3f} ({_interval(*size)}, {comparison.num_images} images)"
    return f"{first} beats {second} on {metric} by {shown}"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {_rounded(low)} to {_rounded(high)}"


def _rounded(value: float) -> str:
    """Three digits, or more where these would be zeros: an end that is just not zero says so."""
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1g}"


def verdicts(comparison: Comparison) -> Iterator[tuple[str, bool]]:
    """A line for each pair, and whether it says that one is better.

    It is about the most important metric, and says where the others say something else.
    """
    step = len(comparison.metrics)
    for start in range(0, len(comparison.differences), step):
        first, *others = comparison.differences[start : start + step]
        line = verdict(first, comparison)
        if first.better is not None:
            same = [other.metric for other in others if other.better == first.better]
            line += f", and on {_listed(same)}" if same else ""
        for name in (first.first, first.second):
            if name != first.better:
                against = [other.metric for other in others if other.better == name]
                line += f"; {name} is better on {_listed(against)}" if against else ""
        yield line, first.better is not None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def caution(comparison: Comparison) -> str:
    """What the intervals hold for, and what they say nothing of."""
    pairs = comparison.num_pairs
    together = (
        f"They are widened (Bonferroni) so that they hold for all {pairs} pairs together. "
        if pairs > 1
        else ""
    )
    return (
        f"Intervals of differences: paired bootstrap, {comparison.num_resamples} resamples of the "
        f"same {comparison.num_images} images. {together}They speak of these trained models; "
        "another seed of the same configuration may differ as much."
    )


def config_rows(candidates: Sequence[Candidate]) -> Rows:
    """Dotted keys whose values are not the same in all runs, with a column for each run.

    A run whose configuration is not known has empty cells and makes no key differ.
    """
    flat = [dict(_flat(one.config, "")) for one in candidates]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = []
    for key in keys:
        known = [_knows(one.config, key) for one in candidates]
        cells = [values.get(key, "") for values in flat]
        different = {cell for cell, is_known in zip(cells, known, strict=True) if is_known}
        if len(different) > 1 and key.partition(".")[0] not in _NOT_COMPARED:
            names = [one.name for one in candidates]
            rows.append({"key": key, **dict(zip(names, cells, strict=True))})
    return rows


def _knows(config: Mapping[str, Any], key: str) -> bool:
    """Whether a configuration would hold a key if the run had it."""
    return bool(config) and (not key.startswith("trainer.") or "trainer" in config)


def _flat(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, value as text); lists of plain values are one value."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        for index, value in enumerate(node):
            yield from _flat(value, f"{key}.{index}")
    elif key:
        yield key, node if isinstance(node, str) else json.dumps(node, default=str)


def write_rows(file: Path, rows: Rows, columns: Sequence[str] = ()) -> None:
    """Write a table, its figures with eight digits.

    Args:
        file: Where it goes.
        rows: Column -> value; None is an empty cell.
        columns: Header of a table without rows.
    """
    header = list(rows[0]) if rows else list(columns)
    write_csv(file, header, ([_cell(row[name]) for name in header] for row in rows))


def _cell(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value
