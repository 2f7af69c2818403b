"""Start-up: what the first answer costs, as a ratio to `import torch` and to Lightning's CLI.

    python benchmarks/startup.py [--rounds 7]

Every command runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import Case, Comparison, run

ROOT = Path(__file__).parents[1]
PEERS = {
    "import torch": ["-c", "import torch"],
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "Lightning's CLI": ["-c", "import lightning.pytorch.cli"],
}
OURS = {
    "main.py --help": ["main.py", "--help"],
    "missing file": ["main.py", "--config", "no-such-file.yaml"],
    "unknown top-level key": ["main.py", "--config", "configs/folder.yaml", "--modle.x", "1"],
    "import classifier.execution": ["-c", "import classifier.execution"],
    "main.py --print_config": ["main.py", "--print_config", "--config", "configs/quickstart.yaml"],
}


def seconds(arguments: list[str]) -> Callable[[], float]:
    """Wall time of one process."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
        return time.perf_counter() - started

    return once


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One; its peers are what the program imports."""
    cases = [Case(name, seconds(words)) for name, words in PEERS.items()]
    cases += [Case(name, seconds(words), ours=True) for name, words in OURS.items()]
    references = ("import torch", "Lightning's CLI")
    yield Comparison("startup", "command", tuple(cases), references, rounds=7)


if __name__ == "__main__":
    run(__doc__ or "", comparisons)
