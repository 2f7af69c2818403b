"""What a part of benchmarks/growth.py costs: seconds and memory, step by step, in its own process.

Started as `python -m benchmarks.growth_probe PART SIZE FOLDER [--traced]`; prints JSON. Two kinds
of memory: `most` is how far the process has grown over its start, imports done, at the highest
point of a step (VmHWM, which Linux sets back on demand); `kept` are the bytes of the objects that a
step leaves behind (tracemalloc, which slows down what it watches, so that it has a process of its
own, and which sees Python's and numpy's memory, not that of torch, pandas and pyarrow).
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SECONDS, MOST, KEPT, DISK, STATE = "s", "MB most", "MB kept", "MB on disk", "MB of state"
# Step -> unit -> figure.
Figures = dict[str, dict[str, float]]


def _status(field: str) -> float:
    """A size of this process in MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", text, flags=re.MULTILINE)
    assert found is not None, field
    return int(found[1]) * 1024 / 1e6


def _renew_table_of_strings() -> None:
    """Let Python make its table of interned strings anew, while its memory is watched.

    Names in a path of pathlib enter that table and leave it again. When as many have passed as it
    has room, it is made anew for those that are in it now: of one size, however many have passed,
    15.4 MB with all that a training imports. A step that does so would be charged with all of it.
    """
    for number in range(1_000_000):
        sys.intern(f"passing string {number}")
        if number % 1000 == 0 and tracemalloc.get_traced_memory()[0] > 1e6:
            return


class Probe:
    """Measures the steps of a part.

    Args:
        traced: Whether the objects that steps leave behind are counted, instead of time and peaks.
    """

    def __init__(self, traced: bool) -> None:
        self.traced = traced
        self.figures: Figures = {}
        self._start: float | None = None

    @contextmanager
    def step(self, name: str, *, keeps: bool = False) -> Iterator[None]:
        """Measure what happens within.

        Args:
            name: Row of the table.
            keeps: Whether what it leaves behind is to be counted.
        """
        gc.collect()
        if self.traced:
            with self._counting(name, keeps):
                yield
            return
        if self._start is None:
            self._start = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self.add(name, SECONDS, took)
        self.add(name, MOST, max(0.0, _status("VmHWM") - self._start))

    @contextmanager
    def _counting(self, name: str, keeps: bool) -> Iterator[None]:
        if not tracemalloc.is_tracing():
            tracemalloc.start()
            _renew_table_of_strings()
        before = tracemalloc.get_traced_memory()[0]
        yield
        gc.collect()
        if keeps:
            self.add(name, KEPT, max(0, tracemalloc.get_traced_memory()[0] - before) / 1e6)

    def add(self, name: str, unit: str, figure: float) -> None:
        """Take up a figure that is no time."""
        self.figures.setdefault(name, {})[unit] = figure

    def disk(self, name: str, *files: Path) -> None:
        """Take up the size of files, and of what lies below folders."""
        below = [f for file in files for f in (file.rglob("*") if file.is_dir() else [file])]
        self.add(name, DISK, sum(file.stat().st_size for file in below if file.is_file()) / 1e6)


def main() -> None:
    """Measure one part at one size."""
    from benchmarks.growth_parts import PARTS

    name, size, folder, *words = sys.argv[1:]
    probe = Probe("--traced" in words)
    PARTS[name].work(int(size), Path(folder), probe)
    print(json.dumps(probe.figures))


if __name__ == "__main__":
    main()
