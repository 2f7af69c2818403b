"""Labels that are likely wrong, by out-of-fold probabilities. Needs cleanlab."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import ConfigError
from classifier.evaluation.results import Predictions
from classifier.spreadsheets import safe_label, safe_path, write_csv

_LIBRARY = "cleanlab"
_COLUMNS = ("path", "target", "label_given", "label_suggested", "score")


def check_library() -> None:
    """Refuse to look for wrong labels without the library that does it.

    Raises:
        ConfigError: cleanlab is not installed.
    """
    if find_spec(_LIBRARY) is None:
        raise ConfigError(
            "--label_issues", f"needs {_LIBRARY}, which is not installed",
            remedy=f"Write pip install {_LIBRARY}, or leave it out",
        )  # fmt: skip


def write_label_issues(predictions: Predictions, file: Path) -> int:
    """Write images whose label is likely wrong, the least credible label first.

    Args:
        predictions: Out of fold: a model agrees with the labels that it was trained on.
        file: A CSV file.

    Returns:
        How many they are.

    Source: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset
        Labels, 2021; the library cleanlab.
    """
    several = predictions.several
    found, scores = _judged(predictions)
    rows = []
    for index in sorted(map(int, found), key=lambda index: (scores[index], index)):
        given, suggested = (
            np.flatnonzero(values[index]) if several else [values[index]]
            for values in (predictions.targets, predictions.predicted)
        )
        names = [
            "|".join(safe_label(predictions.class_names[k]) for k in own)
            for own in (given, suggested)
        ]
        target = "|".join(str(k) for k in given)
        rows.append([safe_path(predictions.paths[index]), target, *names, f"{scores[index]:.6g}"])
    write_csv(file, _COLUMNS, rows)
    return len(rows)


def _judged(predictions: Predictions) -> tuple[NDArray[Any], NDArray[Any]]:
    """Indices of likely mistakes, and how credible each image's label is, in [0, 1]."""
    several = predictions.several
    package = f"{_LIBRARY}.multilabel_classification" if several else _LIBRARY
    find = import_module(f"{package}.filter").find_label_issues
    score = import_module(f"{package}.rank").get_label_quality_scores
    labels: Any = predictions.targets
    if several:
        labels = [np.flatnonzero(row).tolist() for row in labels]
    found = find(
        labels, predictions.probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return found, score(labels, predictions.probabilities)
