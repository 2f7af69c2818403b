"""What got worse: the ratios of now beside those that were kept, with the spread of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measured, Spread, shown

BASELINE = Path(__file__).parent / "baseline.json"
# Quartiles of a few rounds lie close together by chance now and then.
SMALLEST_CHANGE = 0.05

Ratios = dict[str, dict[str, Spread]]


def name_of(case: str, reference: str) -> str:
    """How a ratio is called."""
    return f"{case} / {reference}"


def ratios(measured: Iterable[Measured]) -> Ratios:
    """What is kept: for every table the ratios of this program's cases to the references."""
    return {
        one.key: {
            name_of(case, reference): one.ratio(case, reference)
            for case in one.ours
            for reference in one.references
            if case != reference
        }
        for one in measured
    }


def read(file: Path = BASELINE) -> dict[str, Any]:
    """The kept ratios; none where nothing was kept yet."""
    if not file.exists():
        return {}
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return kept


def keep(measured: Iterable[Measured], machine: str, file: Path = BASELINE) -> None:
    """Replace the ratios of the tables that were measured; others stay.

    Args:
        measured: The tables.
        machine: Where, with what and when.
        file: The baseline.
    """
    kept = read(file)
    for key, found in ratios(measured).items():
        plain = {name: asdict(spread) for name, spread in found.items()}
        kept[key] = {"machine": machine, "ratios": plain}
    text = json.dumps(dict(sorted(kept.items())), indent=1)
    file.write_text(text + "\n", encoding="utf-8")


def worse(measured: Iterable[Measured], kept: Mapping[str, Any]) -> list[str]:
    """A line for every ratio that got worse beyond the noise.

    A ratio did when the spread of now and the one that was kept have no value in common, and the
    medians are more than 5 % apart.

    Args:
        measured: The tables of now.
        kept: What `read` gives.
    """
    lines = []
    for one in measured:
        before = kept.get(one.key, {"ratios": {}})["ratios"]
        for name, now in ratios([one])[one.key].items():
            if name in before and _is_worse(now, Spread(**before[name]), one.more_is_better):
                then = Spread(**before[name])
                lines.append(f"{one.key}: {name} is {_worded(now)}, was {_worded(then)}")
    return lines


def unknown(measured: Iterable[Measured], kept: Mapping[str, Any]) -> list[str]:
    """The ratios that were measured now and have nothing to be compared with."""
    return [
        f"{key}: {name}"
        for key, found in ratios(measured).items()
        for name in found
        if name not in kept.get(key, {"ratios": {}})["ratios"]
    ]


def _is_worse(now: Spread, then: Spread, more_is_better: bool) -> bool:
    if more_is_better:
        return now.high < then.low and now.median < then.median * (1 - SMALLEST_CHANGE)
    return now.low > then.high and now.median > then.median * (1 + SMALLEST_CHANGE)


def _worded(ratio: Spread) -> str:
    spread = f"{shown(ratio.low)}-{shown(ratio.high)}"
    return f"{shown(ratio.median)} ({spread}, n = {ratio.n})"
