"""How busy a GPU is while something else runs, as nvidia-smi sees it."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import nan
from pathlib import Path
from typing import NamedTuple

EVERY_MS = 200
_FORMAT = "%Y/%m/%d %H:%M:%S.%f"


class Sample(NamedTuple):
    """One look at the GPU.

    Args:
        when: By the clock of the machine.
        busy: Per cent of the time since the look before in which anything was computed.
    """

    when: datetime
    busy: float


def samples(text: str) -> list[Sample]:
    """What nvidia-smi wrote, in the order of its lines.

    Lines without a number are left out: `[N/A]` of a part of a GPU (MIG), and a last line that
    was cut off.

    Args:
        text: Lines as `2026/11/22 01:33:03.123, 87`.
    """
    found = []
    for line in text.splitlines():
        when, _, busy = (part.strip() for part in line.partition(","))
        if busy.isdigit():
            found.append(Sample(datetime.strptime(when, _FORMAT), float(busy)))
    return found


def busy_between(found: Iterable[Sample], begin: datetime, end: datetime) -> float:
    """The median of the samples of a time, in per cent; not a number where there are none."""
    within = [sample.busy for sample in found if begin <= sample.when <= end]
    return statistics.median(within) if within else nan


class Watch:
    """What was seen of the GPU between the begin and the end of a block."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.begin = self.end = datetime.now()

    def busy(self, after: float = 0.0) -> float:
        """The median in per cent; not a number where nothing was seen.

        Args:
            after: Seconds since the begin that do not count.
        """
        return busy_between(self.samples, self.begin + timedelta(seconds=after), self.end)


@contextmanager
def watching(file: Path) -> Iterator[Watch]:
    """Look at the GPU again and again while the block runs.

    Args:
        file: Where nvidia-smi writes.

    Yields:
        What was seen, complete when the block has ended.
    """
    # Of several GPUs the first that this process may use, as its trainings do.
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    words = [
        "nvidia-smi", f"--id={which}", "--query-gpu=timestamp,utilization.gpu",
        "--format=csv,noheader,nounits", "-lms", str(EVERY_MS),
    ]  # fmt: skip
    watch = Watch()
    with file.open("w") as stream:
        looking = subprocess.Popen(words, stdout=stream, stdin=subprocess.DEVNULL)
        watch.begin = datetime.now()
        try:
            yield watch
        finally:
            watch.end = datetime.now()
            looking.terminate()
            looking.wait()
            watch.samples = samples(file.read_text(encoding="utf-8"))
