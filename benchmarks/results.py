"""RESULTS.md: tables that the suite writes, between marks, in prose that it leaves alone."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import Measured, table

RESULTS = Path(__file__).parent / "RESULTS.md"
SUITE = "benchmarks/run.py"
NAMED = ("torch", "lightning", "timm", "transformers", "onnxruntime")


def machine(threads: int, on_gpu: bool = False) -> str:
    """Hardware, versions and date in one line.

    Args:
        threads: That the measured programs compute with.
        on_gpu: Name the first CUDA device as well.
    """
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0]
    versions = ", ".join(f"{name} {version(name)}" for name in NAMED)
    return (
        f"{_gpu() if on_gpu else ''}{_processor()}, {_number(cores, 'core')}, "
        f"{_number(threads, 'thread')}, load {busy:.1f} "
        f"at the start; Python {platform.python_version()}, {versions}; {date.today()}."
    )


def _gpu() -> str:
    """The name of the GPU, and torch's CUDA."""
    import torch

    return f"{torch.cuda.get_device_name(0)} with CUDA {torch.version.cuda}, "


def _number(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _processor() -> str:
    """The name of the processor, as Linux has it."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def marks(name: str, script: str = SUITE) -> tuple[str, str]:
    """What stands before and behind the tables of a benchmark."""
    return f"<!-- {name}: written by {script} -->", f"<!-- {name}: end -->"


def section(measured: Iterable[Measured], where: str) -> str:
    """The tables of a benchmark, and where they were measured."""
    return "\n\n".join([where, *(table(one) for one in measured)])


def placed(text: str, name: str, tables: str, script: str = SUITE) -> str:
    """A text with other tables of a benchmark.

    Args:
        text: With the benchmark's marks; without them a section is added at its end.
        name: Of the benchmark.
        tables: What comes between the marks.
        script: That writes them.
    """
    begin, end = marks(name, script)
    between = f"{begin}\n\n{tables}\n\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n## {name}\n\n{between}\n"
    before, rest = text.split(begin, 1)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{begin} has no {end} behind it")
    return before + between + after
