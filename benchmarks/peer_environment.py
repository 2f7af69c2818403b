"""The environment of the programs that this one is measured against, never the project's own.

It lies in the user's cache folder and is made when it is first needed: the packages of peers.txt
from the package index. What they need and the project has too, torch above all, is the project's,
so that all are measured on the same. Programs that the project has whole, timm and transformers
and onnxruntime, run in its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
PINS = Path(__file__).parent / "peers.txt"
DONE = "installed"
# Scripts that need more than the project has in any case, and what; the others run in its own.
NEEDS = {
    "train_fastai": "fastai", "train_ultralytics": "ultralytics",
    "train_transformers": "accelerate",
}  # fmt: skip


def folder() -> Path:
    """Where the environment of these pins and this Python lies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    project = sysconfig.get_paths()["purelib"]
    name = hashlib.sha256(f"{PINS.read_text()}{project}{sys.version}".encode()).hexdigest()[:12]
    return cache / "classifier-benchmarks" / name


def python() -> Path:
    """The interpreter of the environment, which is made where it is not there yet."""
    place = folder()
    interpreter = place / "bin/python"
    if (place / DONE).exists():
        return interpreter
    print(f"installing the packages of {PINS.name} into {place}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)  # broken off while it was made
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found_too = place / "lib" / version / "site-packages/project.pth"
    found_too.write_text(sysconfig.get_paths()["purelib"] + "\n")
    words = [str(interpreter), "-m", "pip", "install", "--quiet", "--requirement", str(PINS)]
    subprocess.run(words, check=True)
    (place / DONE).touch()
    return interpreter


def is_installed(script: str) -> bool:
    """Whether the project's own environment has what one of the scripts in peers/ needs."""
    return script not in NEEDS or find_spec(NEEDS[script]) is not None


def command(script: str, *words: object) -> list[str]:
    """The command line of one of the scripts in peers/."""
    interpreter = sys.executable if is_installed(script) else str(python())
    return [interpreter, str(PEERS / f"{script}.py"), *map(str, words)]
