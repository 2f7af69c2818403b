"""What is measured: a model of timm, its image size, the precision, and on which device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = "timm/resnet18"
FLOAT32, BF16 = "32-true", "bf16-mixed"


@dataclass(frozen=True)
class Subject:
    """The model of a benchmark, and how it is computed.

    Args:
        model: `timm/<name>`; it has random weights.
        size: Side of the images in pixels.
        precision: 32-true or bf16-mixed.
        accelerator: cpu or gpu.
    """

    model: str = SMALL
    size: int = 128
    precision: str = FLOAT32
    accelerator: str = "cpu"

    @property
    def name(self) -> str:
        """The model's name in timm."""
        return self.model.removeprefix("timm/")

    @property
    def on_gpu(self) -> bool:
        """Whether it is on a GPU."""
        return self.accelerator == "gpu"

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def bf16(self) -> bool:
        """Whether it is computed in mixed precision."""
        return self.precision == BF16

    @property
    def trainer(self) -> dict[str, Any]:
        """The part of a configuration that says where."""
        return {"accelerator": self.accelerator, "devices": 1, "precision": self.precision}

    def key(self, benchmark: str) -> str:
        """By which the baseline knows it: train, train.bf16, train.gpu.resnet50.

        Args:
            benchmark: Its name.
        """
        if self.on_gpu:
            return f"{benchmark}.gpu.{self.name}"
        other = f".{self.name}" if self.model != SMALL else ""
        return f"{benchmark}{other}" + (".bf16" if self.bf16 else "")

    def __str__(self) -> str:
        where = "a GPU" if self.on_gpu else "the CPU"
        return f"{self.name} at {self.size} px, {self.precision} on {where}"


def no_gpu() -> str | None:
    """Why nothing can be measured on a GPU; None where it can."""
    import torch

    if torch.cuda.is_available():
        return None
    built = torch.version.cuda
    why = f"torch {torch.__version__} finds none" if built else "this torch is built without CUDA"
    return f"needs an NVIDIA GPU, and {why}"


def at_least(smallest: int) -> Callable[[str], int]:
    """What argparse is to make of a word: a whole number that is large enough.

    Args:
        smallest: That may be given.
    """

    def number(word: str) -> int:
        if not word.lstrip("-").isdigit() or int(word) < smallest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {smallest}, got {word}")
        return int(word)

    return number


def _accelerator(word: str) -> str:
    if word not in ("cpu", "gpu"):
        raise argparse.ArgumentTypeError(f"must be cpu or gpu, got {word!r}")
    if word == "gpu" and (problem := no_gpu()) is not None:
        raise argparse.ArgumentTypeError(problem)
    return word


def _model(word: str) -> str:
    if not word.startswith("timm/"):
        raise argparse.ArgumentTypeError(f"must be a model of timm, as {SMALL}, got {word!r}")
    return word


def add_options(parser: argparse.ArgumentParser, size: int) -> None:
    """The options of a benchmark that measures any model anywhere.

    Args:
        parser: Of the benchmark.
        size: Where the command line does not say.
    """
    parser.add_argument("--model", type=_model, default=SMALL, help="timm/<name>, random weights")
    parser.add_argument("--size", type=at_least(1), default=size, help="of the images, in pixels")
    parser.add_argument("--precision", choices=[FLOAT32, BF16], default=FLOAT32)
    parser.add_argument("--accelerator", type=_accelerator, default="cpu", help="cpu or gpu")


def subject_of(given: argparse.Namespace) -> Subject:
    """What a command line asks for.

    Args:
        given: With the options of `add_options`.
    """
    return Subject(given.model, given.size, given.precision, given.accelerator)


def folder_of(root: Path) -> dict[str, Any]:
    """A data set of a configuration: a folder for each class."""
    return {"class_path": "FolderImageDataset", "init_args": {"root": str(root)}}
