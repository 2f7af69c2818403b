"""environment.json: what a result was made with, so that one can tell why another differs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from classifier.cores import usable_cores
from classifier.masking import masked_words

# Of each mode, the stages of the data that it looks at.
STAGES = {
    "train": ("train", "val"), "verify_repro": ("train", "val"), "lr_find": ("train",),
    "validate": ("val",), "test": ("test",), "predict": ("predict",),
}  # fmt: skip
_PACKAGES = (
    "torch", "torchvision", "lightning", "jsonargparse", "timm", "transformers", "albumentations",
    "torchmetrics", "numpy", "pillow", "opencv-python-headless", "onnxruntime",
)  # fmt: skip
_CODE = Path(__file__).resolve().parents[2]  # main.py's folder
_GIT_SECONDS = 10.0


def receipt(words: Sequence[str], started: float, seed: int | None) -> dict[str, Any]:
    """What is known before there is a trainer. No names of machines or users, no variables.

    What torch knows is left out where the command does without it.

    Args:
        words: Of the command line.
        started: time.time() at the start of the command.
        seed: Of the run.
    """
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "command": ["main.py", *masked_words(words)],
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_facts(),
        "ram_gib": _ram_gib(),
        **(torch_facts() if "torch" in sys.modules else {}),
        "git": git_facts(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def torch_facts() -> dict[str, Any]:
    """The GPUs, the threads, and the switches for equal results."""
    import torch

    return {
        **gpu_facts(),
        "num_threads": torch.get_num_threads(),
        "deterministic": deterministic_flags(),
    }


def training_facts(trainer: Any) -> dict[str, Any]:
    """What the trainer really uses, whatever the configuration asked for.

    Args:
        trainer: Of Lightning.
    """
    return {
        "precision": str(trainer.precision),
        "accelerator": trainer.strategy.root_device.type,
        "num_devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
    }


def data_facts(data: Any, stages: Sequence[str]) -> dict[str, Any]:
    """Of each stage its number of images, and a hash of which images they are.

    Args:
        data: Set up; a data module of the user's own has nothing that could be told here.
        stages: train, val, test or predict; val is left out where there is none.
    """
    from classifier.data.datamodule import ImageDataModule
    from classifier.data.fingerprints import stage_fingerprint

    if not isinstance(data, ImageDataModule):
        return {}
    return {
        name: stage_fingerprint(data.stage(name), data.class_names or ())
        for name in stages
        if name != "val" or data.has_validation()
    }


def cpu_facts() -> dict[str, Any]:
    """The processor's name, its logical cores, and how many of them this process may use."""
    return {
        "name": _cpu_name(), "num_cores": os.cpu_count(), "num_usable_cores": usable_cores(),
    }  # fmt: skip


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.lower().startswith("model name"):
                    return line.partition(":")[2].strip()
    elif sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _ram_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def gpu_facts() -> dict[str, Any]:
    """The GPUs that torch sees, and what drives them; null where there are none."""
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "gpus": [
            {
                "name": gpu.name,
                "memory_gib": round(gpu.total_memory / 2**30, 1),
                "compute_capability": f"{gpu.major}.{gpu.minor}",
            }
            for gpu in found
        ],
        "driver": _driver() if found else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if found else None,  # type: ignore[no-untyped-call]
    }


def _driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's driver, which stands behind the words `Kernel Module`."""
    if not file.is_file():
        return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i=0")
    words = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def deterministic_flags() -> dict[str, Any]:
    """The switches of torch on which it depends whether equal runs come to equal bits."""
    import torch

    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def git_facts() -> dict[str, Any]:
    """The commit of the program, and of the working directory where it is another repository.

    Neither addresses of remotes, which may hold tokens, nor paths.
    """
    code, here = _top_level(_CODE), _top_level(Path.cwd())
    facts = {"code": None if code is None else _commit(code)}
    if here is not None and here != code:
        facts["working_directory"] = _commit(here)
    return facts


def _top_level(folder: Path) -> Path | None:
    found = _git(folder, "rev-parse", "--show-toplevel")
    return Path(found) if found else None


def _commit(repository: Path) -> dict[str, Any] | None:
    """Its commit, null before the first, and whether files that it tracks have changed."""
    told = _git(repository, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if told is None:
        return None
    lines = told.splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    commit = commits[0] if commits and commits[0] != "(initial)" else None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _git(folder: Path, *words: str) -> str | None:
    # A repository's own settings may name a program that git starts to learn of changes.
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder))
    return _output("git", *options, *words)


def _output(*words: str) -> str | None:
    """What a program prints; None where there is no such program, or nothing that it can tell."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_GIT_SECONDS,
            env=environment, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def merged(
    facts: Mapping[str, Any], trainer: Any, data: Any, stages: Sequence[str]
) -> dict[str, Any]:
    """A receipt with what came to be known: the trainer and the data.

    Args:
        facts: As `receipt` gave them.
        trainer: Of the command; None where there is none.
        data: Set up; None where nothing was looked at yet.
        stages: Of the data, that the command looks at.
    """
    packages = facts["packages"]
    return {
        **{name: value for name, value in facts.items() if name != "packages"},
        **({} if trainer is None else training_facts(trainer)),
        "data": {} if data is None else data_facts(data, stages),
        "packages": packages,
    }
