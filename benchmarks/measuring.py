"""What all benchmarks share: interleaved rounds, medians with their spread, ratios of pairs.

The figures of a machine change with what else it does, and with the machine; the ratio of two ways
that ran side by side hardly does. So a benchmark is a comparison of cases that do the same work,
and what is kept of it are ratios to the cases that it names as references.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.subject import at_least

# So many values have quartiles worth the name; fewer show their smallest and largest.
ENOUGH_FOR_QUARTILES = 5


@dataclass(frozen=True)
class Quantity:
    """What is measured.

    Args:
        unit: As a column's head: seconds, images/s.
        more_is_better: Of two figures the larger one is the better one.
    """

    unit: str = "seconds"
    more_is_better: bool = False


@dataclass(frozen=True)
class Case:
    """One way to do the work of a comparison.

    Args:
        name: Row of the table.
        measure: Does the work once; returns a figure for every quantity, or a number for the only.
        ours: It is this program's; the guard watches these alone.
    """

    name: str
    measure: Callable[[], float | tuple[float, ...]]
    ours: bool = False


@dataclass(frozen=True)
class Comparison:
    """Cases that do the same work, side by side.

    Args:
        key: By which the baseline knows it: startup, data.large.
        title: Head of the table's first column: what the work is.
        cases: At least one.
        references: Names of the cases that ratios are taken to; a column for each.
        quantities: What every case measures.
        rounds: How often each case runs, where the command line does not say.
        derived: Name of a further row -> from the figures of one round, by name, to its figure.
        warm: Whether every case runs once before the first round, unmeasured.
        remark: A line below the last table, asked for when all rounds are done; "" for none.
    """

    key: str
    title: str
    cases: tuple[Case, ...]
    references: tuple[str, ...]
    quantities: tuple[Quantity, ...] = (Quantity(),)
    rounds: int = 5
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)
    warm: bool = True
    remark: Callable[[], str] = str


@dataclass(frozen=True)
class Spread:
    """A median and how far the values lie from it.

    Args:
        median: Of the values.
        low: First quartile; of fewer than five values the smallest.
        high: Third quartile, or the largest.
        n: Number of values, at least 1.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        found = sorted(values)
        low, high = found[0], found[-1]
        if len(found) >= ENOUGH_FOR_QUARTILES:
            low, _, high = statistics.quantiles(found, n=4)
        return cls(statistics.median(found), low, high, len(found))


@dataclass(frozen=True)
class Measured:
    """The figures of one quantity of a comparison.

    Args:
        key: Of the comparison; with several quantities their unit is behind it.
        title: Head of the table's first column.
        unit: Of the figures.
        more_is_better: Of two figures the larger one is the better one.
        references: Names of the cases that ratios are taken to.
        ours: Names of the cases that are this program's.
        figures: Case -> its figures, one for each round.
        remark: A line below the table; "" for none.
    """

    key: str
    title: str
    unit: str
    more_is_better: bool
    references: list[str]
    ours: list[str]
    figures: dict[str, list[float]]
    remark: str = ""

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return len(next(iter(self.figures.values())))

    def ratio(self, name: str, reference: str) -> Spread:
        """Of the figures of each round: what ran side by side was slowed down side by side."""
        pairs = zip(self.figures[name], self.figures[reference], strict=True)
        return Spread.of(own / other if other else math.inf for own, other in pairs)

    def pooled(self, later: Measured) -> Measured:
        """With the figures of a later run of the same comparison."""
        both = {name: figures + later.figures[name] for name, figures in self.figures.items()}
        return replace(self, figures=both)


def measure(comparison: Comparison, rounds: int | None = None) -> Iterator[Measured]:
    """Run every case once a round, every other round in reverse order.

    Args:
        comparison: What is compared.
        rounds: At least 1; None is the comparison's own number.

    Yields:
        The figures of each quantity.
    """
    units = [quantity.unit for quantity in comparison.quantities]
    names = [*(case.name for case in comparison.cases), *comparison.derived]
    found: dict[str, dict[str, list[float]]] = {u: {name: [] for name in names} for u in units}
    if comparison.warm:
        for case in comparison.cases:
            case.measure()
    for number in range(rounds or comparison.rounds):
        order = comparison.cases if number % 2 == 0 else comparison.cases[::-1]
        figures = {case.name: case.measure() for case in order}
        for place, unit in enumerate(units):
            one = {n: f[place] if isinstance(f, tuple) else f for n, f in figures.items()}
            derived = {name: rule(one) for name, rule in comparison.derived.items()}
            for name, figure in {**one, **derived}.items():
                found[unit][name].append(figure)
    ours = [case.name for case in comparison.cases if case.ours]
    remark = comparison.remark()
    for quantity in comparison.quantities:
        several = len(units) > 1
        yield Measured(
            key=f"{comparison.key} {quantity.unit}" if several else comparison.key,
            title=comparison.title,
            unit=quantity.unit,
            more_is_better=quantity.more_is_better,
            references=list(comparison.references),
            ours=[*ours, *comparison.derived],
            figures=found[quantity.unit],
            remark=remark if quantity is comparison.quantities[-1] else "",
        )


def shown(figure: float) -> str:
    """A figure with three digits that mean something."""
    if figure == 0 or not math.isfinite(figure):
        return f"{figure:g}"
    decimals = 2 - math.floor(math.log10(abs(figure)))
    return f"{figure:.{min(max(decimals, 0), 3)}f}"


def table(measured: Measured) -> str:
    """A table of Markdown: medians, spread, and the ratio to each reference with its spread."""
    spread = "quartiles" if measured.rounds >= ENOUGH_FOR_QUARTILES else "span"
    heads = [f"{measured.title} (n = {measured.rounds})", measured.unit, spread]
    rows = [[*heads, *(f"x {name}" for name in measured.references)]]
    rows.append(["---"] * len(rows[0]))
    for name, figures in measured.figures.items():
        own = Spread.of(figures)
        row = [name, shown(own.median), f"{shown(own.low)}-{shown(own.high)}"]
        for reference in measured.references:
            ratio = measured.ratio(name, reference)
            several = ratio.n > 1 and name != reference
            around = f" ({shown(ratio.low)}-{shown(ratio.high)})" if several else ""
            row.append(shown(ratio.median) + around)
        rows.append(row)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(["", measured.remark] if measured.remark else [])])


def run(
    description: str,
    comparisons: Callable[[argparse.Namespace], Iterator[Comparison]],
    options: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """The command line of a benchmark: measure and print the tables.

    Args:
        description: Text of --help.
        comparisons: From the command line to what is compared; it may make what is measured only
            when it comes to that, and is told to clean up behind it.
        options: Adds the benchmark's own options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=at_least(1), help="instead of each comparison's own number"
    )
    parser.add_argument("--smallest", action="store_true", help="only show that it runs")
    parser.add_argument("--without_peers", action="store_true", help="leave other programs out")
    parser.add_argument(
        "--installed_peers", action="store_true", help="others only where the project has them"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    options(parser)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for comparison in comparisons(given):
        if given.smallest:
            comparison = replace(comparison, warm=False, rounds=1)
        for measured in measure(comparison, given.rounds):
            print(f"\n{table(measured)}", flush=True)
            found.append(asdict(measured))
    if given.json is not None:
        given.json.write_text(json.dumps(found), encoding="utf-8")
