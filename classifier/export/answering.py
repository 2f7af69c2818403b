"""What an exported file answers, in a fresh process and in the runtime of its format.

Run as `python -m classifier.export.answering MODEL ANSWERS < images`: it imports what the file
needs and nothing of the training, as a program elsewhere would.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import RunError
from classifier.export.fresh_process import last_words, run_module

# A single image, and several: that the number of images is free is part of what is verified.
BATCH_SIZES = (1, 8)
# Format -> the package that runs it.
RUNTIMES = {
    "onnx": "onnxruntime",
    "torch_export": "torch",
    "torchscript": "torch",
    "huggingface": "transformers",
    "safetensors": "torch",
}


@dataclass(frozen=True)
class Answered:
    """What a model says of images.

    Args:
        probabilities: For every batch size (N, num_classes) in float64.
        labels: For every batch size the labels that each image has.
        seconds: For an image, from its file on, in the largest batches.
        runtime: The package that computed them.
        version: Its version.
    """

    probabilities: dict[int, NDArray[np.float64]]
    labels: dict[int, list[list[str]]]
    seconds: float
    runtime: str
    version: str


def answers_of_file(model: Path, files: Sequence[Path]) -> Answered:
    """Let a fresh process classify images by a file, each batch size in turn.

    Args:
        model: An exported file, or a folder of the format huggingface.
        files: Images.

    Raises:
        RunError: the process failed; in its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers.json")
        done = run_module(__name__, [str(model.absolute()), str(answers)], files)
        if done.returncode != 0 or not answers.is_file():
            raise RunError(
                "the exported file was written, but cannot be used in a process of its own: "
                + last_words(done)
            )
        told = json.loads(answers.read_text(encoding="utf-8"))
    return Answered(
        {int(size): np.array(values, float) for size, values in told["probabilities"].items()},
        {int(size): labels for size, labels in told["labels"].items()},
        told["seconds"], told["runtime"], told["version"],
    )  # fmt: skip


def _answer(model: str, files: Sequence[str]) -> dict[str, Any]:
    """The answers of a file, as plain data."""
    from classifier.inference.predictor import Predictor

    predictor = Predictor.load(model)
    num_classes = len(predictor.class_names)
    probabilities: dict[int, list[list[float]]] = {}
    labels: dict[int, list[list[str]]] = {}
    seconds = 0.0
    for size in BATCH_SIZES:
        started = time.perf_counter()
        found: Any = predictor.predict(list(files), top_k=num_classes, batch_size=size)
        seconds = (time.perf_counter() - started) / len(files)
        labels[size] = [one.decided for one in found]
        rows = np.full((len(found), num_classes), np.nan)
        for row, one in zip(rows, found, strict=True):
            row[one.indices] = one.probabilities
        probabilities[size] = rows.tolist()
    runtime = RUNTIMES[predictor.description.format]
    return {
        "probabilities": probabilities, "labels": labels, "seconds": seconds,
        "runtime": runtime, "version": version(runtime),
    }  # fmt: skip


def _main(model: str, answers: str) -> None:
    told = _answer(model, json.load(sys.stdin))
    Path(answers).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
