"""What transformers' own pipeline says of images, in a process that has only the folder.

`python -m classifier.export.pipeline_check FOLDER` reads paths as a JSON list from stdin, and
prints a JSON object: `labels`, and `probabilities` of each image in their order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import RunError
from classifier.export.fresh_process import last_words, run_module

_TASK = "image-classification"


def pipeline_probabilities(
    folder: Path, files: Sequence[str], class_names: Sequence[str]
) -> NDArray[np.float32]:
    """Probabilities of image files, by transformers.pipeline in a fresh process.

    Args:
        folder: With config.json and weights.
        files: Their paths, at least one.
        class_names: In the order of the columns.

    Returns:
        (N, C) float32.

    Raises:
        RunError: the folder cannot be opened, an image is none, or the labels are others.
    """
    found = run_module(__name__, [str(folder.absolute())], files)
    if found.returncode != 0:
        raise RunError(f"transformers.pipeline does not open {folder}: {last_words(found)}")
    answer = json.loads(found.stdout.splitlines()[-1])
    if answer["labels"] != list(class_names):
        raise RunError(f"transformers.pipeline has the labels {answer['labels']} in {folder}")
    return np.array(answer["probabilities"], dtype=np.float32)


def classify(folder: str, files: Sequence[str]) -> dict[str, Any]:
    """What the process prints.

    Args:
        folder: With config.json and weights.
        files: Paths of images.
    """
    from transformers import pipeline

    # On the CPU, as the checkpoint it is compared with: a GPU computes in lower precision.
    classifier = pipeline(_TASK, folder, device="cpu", trust_remote_code=False)
    names = classifier.model.config.id2label
    labels = [names[index] for index in range(len(names))]
    rows = []
    for answers in classifier(list(files), top_k=len(labels)):
        scores = {answer["label"]: answer["score"] for answer in answers}
        rows.append([scores[label] for label in labels])
    return {"labels": labels, "probabilities": rows}


if __name__ == "__main__":
    print(json.dumps(classify(sys.argv[1], json.load(sys.stdin))))
