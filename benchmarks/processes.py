"""Commands that are measured from the start of their process to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAIN = [sys.executable, str(ROOT / "main.py")]


def seconds_of(
    words: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> float:
    """Wall time of a process; the suite ends with its output where it fails.

    Args:
        words: The command line.
        cwd: Folder to run in; None is the current one.
        env: Environment variables; None are the current ones.
    """
    started = time.perf_counter()
    ended = subprocess.run(
        words,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)}\n{ended.stdout}\n{ended.stderr}")
    return seconds
