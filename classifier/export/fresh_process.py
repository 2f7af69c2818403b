"""A module of this program in a process of its own, as a program elsewhere would use a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def run_module(
    module: str, words: Sequence[str], files: Sequence[str | Path]
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE WORDS`, which reads paths as a JSON list from stdin.

    It finds this program wherever it is started; it sees no GPU, on which sums come out otherwise,
    and no network. An exception here, as that of a signal, ends it as well.

    Args:
        module: Its full name.
        words: Of its command line.
        files: Made absolute for it.

    Returns:
        The process, ended, with what it wrote.
    """
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        input=json.dumps([str(Path(file).absolute()) for file in files]), env=environment,
        capture_output=True, text=True, errors="backslashreplace", check=False,
    )  # fmt: skip


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process ended: the last line of its errors, else its code."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else f"it ended with code {done.returncode}"
