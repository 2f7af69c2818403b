"""The files of report/ that programs read: JSON and CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.evaluation.curves import confidence_of
from classifier.evaluation.results import Evaluation
from classifier.files import write_text
from classifier.spreadsheets import safe_path, write_csv

SEPARATOR = "|"  # between the labels of an image


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json, per_class.csv, confusion.csv, most_confused.csv, errors.csv and curves.

    Args:
        evaluation: Of one stage.
        folder: Exists.
    """
    write_text(folder / "metrics.json", json.dumps(facts_of(evaluation), indent=2) + "\n")
    _write_classes(evaluation, folder)
    _write_confusion(evaluation, folder)
    _write_errors(evaluation, folder)
    curves = vars(evaluation.curves)
    for name, table in curves.items():
        if not any(table.values()):
            continue  # ROC and precision-recall are of two classes, or of several labels
        rows = zip(*table.values(), strict=True)
        write_csv(folder / f"{name}.csv", list(table), ([_cell(v) for v in row] for row in rows))


def facts_of(evaluation: Evaluation) -> dict[str, Any]:
    """All figures, for JSON: what is not a number is null."""
    predictions = evaluation.predictions
    facts = {
        "stage": evaluation.stage,
        "task": predictions.task,
        "class_names": list(predictions.class_names),
        "positive_class": None
        if evaluation.positive is None
        else predictions.class_names[evaluation.positive],
        "num_images": len(predictions),
        "num_errors": len(predictions.failed),
        "absent": evaluation.absent,
        "estimates": {
            name: {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            for name, estimate in evaluation.estimates.items()
        },
        "figures": evaluation.figures,
        "calibration": evaluation.calibration,
        "abstention": abstention_of(evaluation),
    }
    finite: dict[str, Any] = _finite(facts)
    return finite


def abstention_of(evaluation: Evaluation) -> dict[str, Any]:
    """What leaving undecided images out comes to; empty where none are."""
    limit = evaluation.abstain_below
    if limit is None:
        return {}
    decided = confidence_of(evaluation.predictions) >= limit
    right = evaluation.predictions.correct[decided]
    return {
        "abstain_below": limit,
        "num_undecided": int((~decided).sum()),
        "coverage": float(decided.mean()),
        "accuracy_of_decided": float(right.mean()) if len(right) else None,
    }


def most_confused(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
    """(truth, prediction, images, share of the truth's images), the most frequent first.

    In multilabel the prediction is what is missing or too much: "not" before the class.
    """
    names = evaluation.predictions.class_names
    pairs = []
    if evaluation.predictions.several:
        for name, matrix in zip(names, evaluation.confusion, strict=True):
            for truth, label in ((1, f"not {name}"), (0, name)):
                number = int(matrix[truth, 1 - truth])
                said = name if truth else f"not {name}"
                pairs.append((said, label, number, number / max(int(matrix[truth].sum()), 1)))
    else:
        totals = evaluation.confusion.sum(axis=1)
        for truth, decided in zip(*np.nonzero(evaluation.confusion), strict=True):
            if truth != decided:
                number = int(evaluation.confusion[truth, decided])
                pairs.append((names[truth], names[decided], number, number / int(totals[truth])))
    return sorted((pair for pair in pairs if pair[2]), key=lambda pair: (-pair[2], pair[:2]))


def worst_errors(evaluation: Evaluation) -> list[int]:
    """Rows of the images that were taken for something else, the largest loss first."""
    wrong = np.flatnonzero(~evaluation.predictions.correct)
    order = np.argsort(-evaluation.losses[wrong], kind="stable")
    return [int(row) for row in wrong[order]]


def label_of(evaluation: Evaluation, row: int, *, truth: bool) -> str:
    """The class names of an image, as it is or as it was predicted.

    Args:
        evaluation: That it is part of.
        row: Its place.
        truth: What it is; else what it was taken for.
    """
    predictions = evaluation.predictions
    given = predictions.targets[row] if truth else predictions.predicted[row]
    if not predictions.several:
        return predictions.class_names[int(given)]
    names = [predictions.class_names[index] for index in np.flatnonzero(given)]
    return SEPARATOR.join(names)


def _write_classes(evaluation: Evaluation, folder: Path) -> None:
    fields = list(vars(evaluation.classes[0]))
    rows = ([_cell(getattr(one, field)) for field in fields] for one in evaluation.classes)
    write_csv(folder / "per_class.csv", ["class", *fields[1:]], rows)


def _write_confusion(evaluation: Evaluation, folder: Path) -> None:
    names = evaluation.predictions.class_names
    rows: Iterable[Sequence[Any]]
    if evaluation.predictions.several:
        header = ["class", "true_negative", "false_positive", "false_negative", "true_positive"]
        rows = ([name, *matrix.ravel()] for name, matrix in zip(names, evaluation.confusion))  # noqa: B905
    else:
        header = ["truth", *names]
        rows = ([name, *row] for name, row in zip(names, evaluation.confusion, strict=True))
    write_csv(folder / "confusion.csv", header, rows)
    pairs = ((*pair[:3], _cell(pair[3])) for pair in most_confused(evaluation))
    write_csv(folder / "most_confused.csv", ["truth", "prediction", "num_images", "share"], pairs)


def _write_errors(evaluation: Evaluation, folder: Path) -> None:
    predictions, sure = evaluation.predictions, confidence_of(evaluation.predictions)
    rows = (
        [
            safe_path(predictions.paths[row]),
            label_of(evaluation, row, truth=True),
            label_of(evaluation, row, truth=False),
            _cell(sure[row]),
            _cell(evaluation.losses[row]),
        ]
        for row in worst_errors(evaluation)
    )
    write_csv(folder / "errors.csv", ["path", "truth", "prediction", "score", "loss"], rows)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value


def _finite(value: Any) -> Any:
    """JSON has no nan: it becomes null, so that every reader can parse the file."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
