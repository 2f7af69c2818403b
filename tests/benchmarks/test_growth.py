"""The growth of costs: its fit, its table, and every part at a size that takes no time."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, results
from benchmarks.growth_parts import PARTS, Part
from benchmarks.growth_probe import KEPT, MOST, ROOT, SECONDS, Probe


def part(aim: int = 1000) -> Part:
    return Part("work", "image", lambda size, folder, probe: None, (10, 100), aim)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_exponent_is_that_of_a_power_law_when_constants_lie_below_the_floor(
    exponent: float,
) -> None:
    costs = {size: 3e-6 * size**exponent for size in (1000, 10_000, 30_000, 100_000)}
    found = growth.fit({1: 5.0, **costs})  # so small a size is not of the last two decades
    assert found is not None and found.error is not None
    assert found.exponent == pytest.approx(exponent)
    assert found.error == pytest.approx(0.0, abs=1e-6)
    assert growth.fit(costs, floor=1e9) is None
    assert growth.fit({}) is None


def test_exponent_and_its_error_are_those_of_scipy_when_costs_scatter() -> None:
    from scipy.stats import linregress

    costs = {1000: 1.1, 3000: 3.6, 10_000: 9.0, 30_000: 33.0, 100_000: 88.0}
    found = growth.fit(costs)
    expected = linregress(np.log(list(costs)), np.log(list(costs.values())))
    assert found is not None
    assert (found.exponent, found.error) == pytest.approx((expected.slope, expected.stderr))


def test_error_is_left_out_when_there_are_two_points() -> None:
    found = growth.fit({10: 1.0, 100: 10.0})
    assert found is not None and found.error is None
    assert found.exponent == pytest.approx(1.0)


def test_table_says_what_one_costs_and_marks_what_is_extrapolated_when_it_was_not_measured() -> (
    None
):
    costs = {
        ("read", SECONDS): {10: 0.5, 100: 5.0}, ("write", SECONDS): {10: 1e-4, 100: 2e-4},
        ("read", KEPT): {10: 1.0, 100: 100.0}, ("read", MOST): {10: 1.0, 100: 1.0},
    }  # fmt: skip
    rows = growth.table(part(), (10, 100), costs).splitlines()
    assert rows[0] == "| work |  | 10 | 100 | exponent | image | 1,000, extrapolated |"
    assert rows[2] == "| read | s | 0.500 | 5.00 | 1.00 | 50000 us | ~50.0 s |"
    assert rows[3] == "|  | MB kept | 1.00 | 100 | 2.00 | 1000000 B | ~10.0 GB |"
    assert rows[4].startswith("|  | MB most | 1.00 | 1.00 |  | 10000 B |  |")
    assert rows[5] == "| write | s | <0.001 | <0.001 |  | 2.00 us |  |"
    assert "extrapolated" not in growth.table(part(aim=100), (10, 100), costs)


@pytest.mark.parametrize(
    ("figures", "exponent", "extrapolated"),
    [
        ((164.0, 150.0, 86.9), "-0.14 ± 0.06", ""),  # what grows does not become less
        ((0.142, 0.292, 17.2), "1.04 ± 0.42", ""),  # of three steps one is a leap
        ((0.032, 0.032, 0.032), "0.00 ± 0.00", "~0.032 MB"),  # a constant is known
        ((1.0, 9.0, 100.0), "1.00 ± 0.03", "~10.0 GB"),
    ],
)
def test_nothing_is_extrapolated_when_costs_fall_or_scatter(
    figures: tuple[float, ...], exponent: str, extrapolated: str
) -> None:
    sizes = (1000, 10_000, 100_000)
    costs = {("read", "MB of state"): dict(zip(sizes, figures, strict=True))}
    row = growth.table(part(aim=10_000_000), sizes, costs).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")]
    assert (cells[6], cells[8]) == (exponent, extrapolated)


def test_probe_tells_the_peak_of_each_step_when_the_process_is_fresh() -> None:
    words = """
import numpy as np
from benchmarks.growth_probe import MOST, Probe
probe = Probe(traced=False)
with probe.step("large"):
    np.ones(8_000_000).sum()
with probe.step("small"):
    pass
print(probe.figures["large"][MOST], probe.figures["small"][MOST])
"""
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    large, small = map(float, done.stdout.split())
    assert large > 60
    assert small < 60  # the peak of the step before is forgotten


@pytest.fixture
def traced() -> Iterator[Probe]:
    yield Probe(traced=True)
    tracemalloc.stop()


def test_probe_counts_what_a_step_leaves_behind_when_it_is_traced(traced: Probe) -> None:
    with traced.step("keeps", keeps=True):
        kept = np.ones(1_000_000)
        np.ones(2_000_000)
    with traced.step("does not say"):
        pass
    assert traced.figures == {"keeps": {KEPT: pytest.approx(kept.nbytes / 1e6, rel=0.01)}}


def test_step_is_not_charged_when_strings_pass_through_their_table(traced: Probe) -> None:
    with traced.step("paths", keeps=True):
        for number in range(700_000):  # more than there is room for
            sys.intern(f"name {number}")
    assert traced.figures["paths"][KEPT] < 0.1


_DRAWN = ("report", "classes", "study")  # pictures take their time


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in _DRAWN else ()) for n in PARTS]
)
def test_part_measures_every_step_when_it_is_small(name: str, tmp_path: Path) -> None:
    own = PARTS[name]
    size = {"trial": 3, "class": 3}.get(own.item, 200)
    if own.prepare is not None:
        own.prepare(tmp_path, size)
    probe = Probe(traced=False)
    own.work(size, tmp_path, probe)
    figures = [figure for units in probe.figures.values() for figure in units.values()]
    assert len(figures) >= 2 and all(figure >= 0 for figure in figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder"], "no part folder; there are folders, tables,"),
        (["study", "--largest", "5"], "--largest: study begins at 10"),
        (["--folder", "nowhere"], "--folder: no such folder: nowhere"),
    ],
)
def test_command_line_is_refused_when_it_cannot_be_measured(
    words: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["growth.py", *words])
    with pytest.raises(SystemExit) as error:
        growth.main()
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_tables_are_written_between_their_marks_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text(results.RESULTS.read_text())
    calls: list[list[str]] = []

    def process(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        figures = {"write": {KEPT if "--traced" in command else SECONDS: 1.0}}
        return subprocess.CompletedProcess(command, 0, f"a line\n{json.dumps(figures)}\n")

    monkeypatch.setattr(growth, "RESULTS", file)
    monkeypatch.setattr("benchmarks.growth.subprocess.run", process)
    monkeypatch.setattr("sys.argv", ["growth.py", "rows", "--largest", "10000", "--write"])
    growth.main()
    assert [call[4:5] + call[6:] for call in calls] == [
        ["1000"], ["1000", "--traced"], ["10000"], ["10000", "--traced"],
    ]  # fmt: skip
    begin, end = results.marks("growth", "benchmarks/growth.py")
    before, between = file.read_text().split(begin)
    assert before == results.RESULTS.read_text().split(begin)[0]
    assert "| write | s | 1.00 | 1.00 |" in between.split(end)[0]


@pytest.mark.long
def test_command_measures_in_processes_of_its_own_when_it_is_small() -> None:
    ended = subprocess.run(
        [sys.executable, growth.__file__, "rows", "--smallest"], check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "| logged steps |  | 200 | 400 | exponent | row |" in ended.stdout
    assert "|  | MB kept |" in ended.stdout
