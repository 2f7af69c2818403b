"""How many cores there are for this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Logical cores that this process may use: not all of the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
