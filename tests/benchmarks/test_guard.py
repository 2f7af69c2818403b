"""The guard names what got worse, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import guard
from benchmarks.measuring import Measured


def measured(ours: list[float], more_is_better: bool = False, key: str = "startup") -> Measured:
    figures = {"ours": ours, "theirs": [1.0] * len(ours), "third": [9.0] * len(ours)}
    return Measured(key, "work", "seconds", more_is_better, ["theirs"], ["ours"], figures)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    file = tmp_path / "baseline.json"
    guard.keep([measured([2.0, 2.15, 2.2])], "a machine", file)
    return file


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ([2.5, 2.6, 2.7], True),  # apart, and slower by more than 5 %
        ([2.15, 2.6, 2.7], False),  # the spreads touch
        ([2.21, 2.21, 2.21], False),  # apart, but hardly
        ([1.0, 1.1, 1.2], False),  # faster
    ],
)
def test_guard_names_a_ratio_when_it_is_worse_beyond_the_spread_of_both(
    kept: Path, now: list[float], named: bool
) -> None:
    lines = guard.worse([measured(now)], guard.read(kept))
    expected = "startup: ours / theirs is 2.60 (2.50-2.70, n = 3), was 2.15 (2.00-2.20, n = 3)"
    assert lines == ([expected] if named else [])


@pytest.mark.parametrize(("now", "named"), [([1.0, 1.1, 1.2], True), ([3.0, 3.1, 3.2], False)])
def test_guard_turns_round_when_more_is_better(
    tmp_path: Path, now: list[float], named: bool
) -> None:
    file = tmp_path / "baseline.json"
    guard.keep([measured([2.0, 2.1, 2.2], more_is_better=True)], "a machine", file)
    assert bool(guard.worse([measured(now, more_is_better=True)], guard.read(file))) == named


def test_guard_leaves_peers_alone_when_they_get_slower(kept: Path) -> None:
    now = measured([2.0, 2.1, 2.2])
    now.figures["third"] = [90.0] * 3
    assert guard.worse([now], guard.read(kept)) == []


def test_other_tables_stay_when_one_is_kept(kept: Path) -> None:
    guard.keep([measured([5.0], key="step")], "another machine", kept)
    found = guard.read(kept)
    assert list(found) == ["startup", "step"]
    assert found["startup"]["machine"] == "a machine"
    assert guard.worse([measured([2.5, 2.6, 2.7])], found)


def test_ratio_is_called_unknown_when_nothing_was_kept_of_it(kept: Path, tmp_path: Path) -> None:
    now = [measured([2.0, 2.1, 2.2]), measured([1.0], key="sweep")]
    assert guard.unknown(now, guard.read(kept)) == ["sweep: ours / theirs"]
    assert guard.worse(now, guard.read(tmp_path / "none.json")) == []
