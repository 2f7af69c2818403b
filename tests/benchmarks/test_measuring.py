"""The frame of the benchmarks, with figures that are made up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import pytest

from benchmarks.measuring import Case, Comparison, Measured, Quantity, Spread, measure, shown, table


def case(name: str, figures: Sequence[float], calls: list[str] | None = None, **more) -> Case:
    left = iter(figures)

    def once() -> float:
        if calls is not None:
            calls.append(name)
        return next(left)

    return Case(name, once, **more)


def only(comparison: Comparison, rounds: int | None = None) -> Measured:
    (measured,) = measure(comparison, rounds)
    return measured


def test_rounds_are_interleaved_and_every_other_one_is_reversed_when_cases_are_measured() -> None:
    calls: list[str] = []
    cases = tuple(case(name, range(1, 9), calls) for name in "abc")
    only(Comparison("key", "work", cases, ("a",), rounds=3, warm=False))
    assert "".join(calls) == "abc" + "cba" + "abc"


def test_warming_is_no_figure_when_a_comparison_asks_for_it() -> None:
    cases = (case("slow start", [100, 2, 4]), case("other", [1, 1, 1]))
    measured = only(Comparison("key", "work", cases, ("other",)), rounds=2)
    assert measured.figures == {"slow start": [2, 4], "other": [1, 1]}
    assert measured.rounds == 2


def test_ratio_is_that_of_pairs_when_the_machine_gets_slower() -> None:
    # Each round twice as slow as the one before: medians of either alone would say 8 / 2.
    ours, theirs = [4.0, 8.0, 16.0], [1.0, 4.0, 2.0]
    comparison = Comparison(
        "key", "work", (case("ours", ours), case("theirs", theirs)), ("theirs",), warm=False
    )
    ratio = only(comparison, rounds=3).ratio("ours", "theirs")
    assert (ratio.median, ratio.low, ratio.high, ratio.n) == (4.0, 2.0, 8.0, 3)


def test_derived_row_is_computed_within_each_round_when_order_changes() -> None:
    cases = (case("bare", [1.0, 3.0]), case("ours", [2.0, 7.0]))
    added: dict[str, Callable[[Mapping[str, float]], float]] = {
        "added": lambda found: found["ours"] - found["bare"]
    }
    measured = only(
        Comparison("key", "work", cases, ("bare",), derived=added, warm=False), rounds=2
    )
    assert measured.figures["added"] == [1.0, 4.0]
    assert "added" in measured.ours


def test_every_quantity_has_a_table_of_its_own_when_there_are_several() -> None:
    answers = iter([(1.0, 200.0), (2.0, 100.0)])
    comparison = Comparison(
        "predict", "work", (Case("ours", lambda: next(answers), ours=True),), ("ours",),
        (Quantity("seconds"), Quantity("images/s", more_is_better=True)), warm=False,
    )  # fmt: skip
    seconds, rate = measure(comparison, 2)
    assert (seconds.key, rate.key) == ("predict seconds", "predict images/s")
    assert (seconds.figures, rate.figures) == ({"ours": [1.0, 2.0]}, {"ours": [200.0, 100.0]})
    assert (seconds.more_is_better, rate.more_is_better) == (False, True)


@pytest.mark.parametrize("values", [[3.0], [5.0, 1.0, 3.0], [7.0, 1.0, 9.0, 3.0, 5.0, 2.0]])
def test_spread_is_quartiles_when_there_are_five_values_else_smallest_and_largest(
    values: list[float],
) -> None:
    spread = Spread.of(values)
    assert spread.median == statistics.median(values)
    expected = min(values), max(values)
    if len(values) >= 5:
        low, _, high = statistics.quantiles(values, n=4)
        expected = low, high
    assert (spread.low, spread.high, spread.n) == (*expected, len(values))


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.0123, "0.012"),
        (0.5, "0.500"),
        (1.5, "1.50"),
        (36.45, "36.5"),
        (1234.0, "1234"),
        (0.0, "0"),
        (-0.25, "-0.250"),
    ],
)
def test_figure_has_three_digits_when_shown(figure: float, text: str) -> None:
    assert shown(figure) == text


def test_table_names_references_and_spread_when_printed() -> None:
    measured = Measured(
        "key",
        "work",
        "seconds",
        False,
        ["theirs"],
        ["ours"],
        {"ours": [1.0, 3.0], "theirs": [2.0, 2.0]},
    )
    assert table(measured).splitlines() == [
        "| work (n = 2) | seconds | span | x theirs |",
        "| --- | --- | --- | --- |",
        "| ours | 2.00 | 1.00-3.00 | 1.00 (0.500-1.50) |",
        "| theirs | 2.00 | 2.00-2.00 | 1.00 |",
    ]
