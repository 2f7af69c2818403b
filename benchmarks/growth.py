"""Scale: what an image, a row, a class and a trial cost as there are more of them.

    python benchmarks/growth.py [PART ...] [--largest 1000000] [--smallest] [--write]

PART: folders, tables, check, map, features, predictions, report, metrics, rows, study, classes;
without one all of them. Every part does the program's own work at some sizes, each in a process of
its own (growth_probe.py says how time and memory are measured), and a table shows what each step
costs at each size. The exponent is the slope of the logarithm of the cost over that of the size, by
least squares over the sizes from a hundredth of the largest on, with its standard error; 1 is
linear, 2 quadratic. Costs too small to be told from what a process does anyway are left out of it.
The last column follows that slope from the largest size on: an extrapolation, and no measurement.
It is empty where costs fall with the size, or the standard error of the exponent is above 0.25.
--write puts the tables of all parts that are named into RESULTS.md, in place of those that are
there. For a million images a million empty files are made below --folder, twice; --largest leaves
larger sizes of all parts out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.growth_parts import PARTS, Part
from benchmarks.growth_probe import KEPT, MOST, ROOT, SECONDS
from benchmarks.measuring import shown
from benchmarks.results import RESULTS, machine, placed

# Less than that is noise: of a timer and a scheduler, of an allocator, of a dictionary that grew.
_FLOORS = {SECONDS: 0.01, MOST: 20.0, KEPT: 0.05}
_DECADES = 100  # the exponent is of sizes from the largest divided by this on
_MOST_ERROR = 0.25  # of an exponent that is followed; two decades on, that is a factor of three
Costs = dict[tuple[str, str], dict[int, float]]  # (step, unit) -> size -> figure


@dataclass(frozen=True)
class Fit:
    """A power law.

    Args:
        exponent: Of the size.
        error: Its standard error; None of two points.
    """

    exponent: float
    error: float | None


def fit(costs: Mapping[int, float], floor: float = 0.0) -> Fit | None:
    """The exponent of the growth; None where fewer than two costs can be told from nothing.

    Args:
        costs: Size -> figure, each at least 0.
        floor: Figures that are no larger are left out.
    """
    largest = max(costs, default=0)
    points = [(n, c) for n, c in costs.items() if c > floor and n * _DECADES >= largest]
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points, dtype=np.float64)).T
    across = x - x.mean()
    exponent = float(across @ y / (across @ across))
    left = y - y.mean() - exponent * across
    freedom = len(points) - 2
    error = math.sqrt(float(left @ left / freedom / (across @ across))) if freedom else None
    return Fit(exponent, error)


def measured(part: Part, name: str, sizes: tuple[int, ...], folder: Path) -> Costs:
    """The costs of a part, each size in processes of its own.

    Raises:
        CalledProcessError: one failed, and has said why.
    """
    found: Costs = {}
    for size in sizes:
        if part.prepare is not None:
            part.prepare(folder, size)
        for words in ([], ["--traced"]) if part.traced else ([],):
            command = ["benchmarks.growth_probe", name, str(size), str(folder), *words]
            ended = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            for step, figures in json.loads(ended.stdout.splitlines()[-1]).items():
                for unit, figure in figures.items():
                    found.setdefault((step, unit), {}).setdefault(size, figure)
        print(f"{name}: {size:,}", file=sys.stderr, flush=True)
    return found


def table(part: Part, sizes: tuple[int, ...], costs: Costs) -> str:
    """A table of Markdown: a row for each step and unit."""
    heads = [part.title, "", *(f"{size:,}" for size in sizes), "exponent", part.item]
    aim = part.aim if part.aim > sizes[-1] else None
    if aim is not None:
        heads.append(f"{aim:,}, extrapolated")
    lines = [heads, ["---"] * len(heads)]
    before = ""
    steps = list(dict.fromkeys(step for step, _ in costs))
    for (step, unit), found in sorted(costs.items(), key=lambda item: steps.index(item[0][0])):
        row = ["" if step == before else step, unit, *(_cell(found.get(size)) for size in sizes)]
        last = found.get(sizes[-1], 0.0)
        slope = fit(found, _FLOORS.get(unit, 0.0))
        row += ["" if slope is None else _slope(slope), _of_one(last / sizes[-1], unit)]
        if aim is not None:
            row.append("" if slope is None else _extrapolated(slope, last, aim / sizes[-1], unit))
        lines.append(row)
        before = step
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(figure: float | None) -> str:
    return "" if figure is None else "<0.001" if 0 < figure < 0.0005 else shown(figure)


def _slope(found: Fit) -> str:
    return f"{round(found.exponent, 2) + 0.0:.2f}" + (
        "" if found.error is None else f" ± {found.error:.2f}"
    )


def _of_one(figure: float, unit: str) -> str:
    """Of one item: microseconds, or bytes."""
    return f"{shown(figure * 1e6)} {'us' if unit == SECONDS else 'B'}"


def _extrapolated(found: Fit, last: float, times: float, unit: str) -> str:
    """The cost of so many times the largest size; empty where the fit does not tell it."""
    falls = round(found.exponent, 2) < 0  # a constant's is a hair below 0 at times
    unsteady = falls or (found.error is not None and found.error > _MOST_ERROR)
    return "" if unsteady or last <= 0 else _at(last * times**found.exponent, unit)


def _at(figure: float, unit: str) -> str:
    if unit != SECONDS:
        return f"~{shown(figure / 1e3)} GB" if figure >= 1e3 else f"~{shown(figure)} MB"
    if figure >= 5400:
        return f"~{shown(figure / 3600)} h"
    return f"~{shown(figure / 60)} min" if figure >= 90 else f"~{shown(figure)} s"


@contextmanager
def _folder(where: Path | None, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"growth-{name}-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--largest", type=int, help="leave larger sizes out; default: all")
    parser.add_argument("--smallest", action="store_true", help="only show that it runs")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--folder", type=Path, help="where files are made; default: /tmp")
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in given.parts or PARTS:
        if not PARTS[name].sizes_up_to(given.largest, smallest=given.smallest):
            parser.error(f"--largest: {name} begins at {PARTS[name].sizes[0]}")
    if given.folder is not None and not given.folder.is_dir():
        parser.error(f"--folder: no such folder: {given.folder}")
    return given


def main() -> None:
    """Measure, print, and write where that is asked for."""
    given = arguments()
    where = machine(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    tables = []
    for name in given.parts or PARTS:
        part = PARTS[name]
        sizes = part.sizes_up_to(given.largest, smallest=given.smallest)
        with _folder(given.folder, name) as folder:
            costs = measured(part, name, sizes, folder)
        tables.append(table(part, sizes, costs))
        print(f"\n{tables[-1]}\n", flush=True)
    if given.write:
        text = RESULTS.read_text(encoding="utf-8")
        written = placed(text, "growth", "\n\n".join([where, *tables]), "benchmarks/growth.py")
        RESULTS.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
