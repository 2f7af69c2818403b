"""Curves of an evaluation: reliability, coverage, ROC, precision and recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

from classifier.evaluation.results import Curves, Predictions

_NUM_BINS = 15
_MOST_POINTS = 500  # of a curve

Array = NDArray[np.float64]


def curves_of(predictions: Predictions, positive: int | None) -> Curves:
    """All curves that the predictions allow.

    Args:
        predictions: With their truth.
        positive: Index of the positive class of two; None else.
    """
    if predictions.several:
        classes = list(range(len(predictions.class_names)))
    else:
        classes = [] if positive is None else [positive]
    roc: dict[str, list[Any]]
    roc = {"class": [], "threshold": [], "false_positive_rate": [], "true_positive_rate": []}
    precision_recall: dict[str, list[Any]]
    precision_recall = {"class": [], "threshold": [], "recall": [], "precision": []}
    for index in classes:
        scores = predictions.probabilities[:, index]
        truth = predictions.targets[:, index] if predictions.several else (
            predictions.targets == index
        )  # fmt: skip
        if truth.all() or not truth.any():
            continue
        name = predictions.class_names[index]
        given = torch.from_numpy(scores.copy()), torch.from_numpy(truth.astype(np.int64))
        false, true, thresholds = binary_roc(*given)
        _extend(roc, name, thresholds, false, true)
        precision, recall, thresholds = binary_precision_recall_curve(*given)
        ends = torch.cat([thresholds, torch.ones(1, dtype=thresholds.dtype)])
        _extend(precision_recall, name, ends, recall, precision)
    return Curves(
        reliability=_reliability(predictions),
        coverage=_coverage(predictions),
        roc=roc,
        precision_recall=precision_recall,
    )


def _extend(table: dict[str, list[Any]], name: str, *columns: torch.Tensor) -> None:
    """Add the points of one class, thinned out evenly where there are very many."""
    number = len(columns[0])
    places = np.unique(np.linspace(0, number - 1, min(number, _MOST_POINTS)).round().astype(int))
    keys = list(table)
    table[keys[0]] += [name] * len(places)
    for key, column in zip(keys[1:], columns, strict=True):
        table[key] += column.numpy()[places].tolist()


def confidence_of(predictions: Predictions) -> Array:
    """How sure the model is of each image, (N,) in [0, 1].

    The probability of the class that was predicted; in multilabel that of the label of which it is
    least sure, present or absent.
    """
    probabilities = predictions.probabilities
    if predictions.several:
        return np.asarray(np.maximum(probabilities, 1.0 - probabilities).min(axis=1))
    return np.asarray(probabilities[np.arange(len(predictions)), predictions.predicted])


def _reliability(predictions: Predictions) -> dict[str, list[Any]]:
    """How often the likeliest class is right, by its probability; in multilabel of all labels."""
    if predictions.several:
        confidence, right = predictions.probabilities.ravel(), predictions.targets.ravel()
    else:
        likeliest = predictions.probabilities.argmax(axis=1)
        confidence = predictions.probabilities.max(axis=1)
        right = likeliest == predictions.targets
    edges = np.linspace(0.0, 1.0, _NUM_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, _NUM_BINS - 1)
    numbers = np.bincount(bins, minlength=_NUM_BINS)
    found = np.flatnonzero(numbers)
    sure = np.bincount(bins, weights=confidence, minlength=_NUM_BINS)[found] / numbers[found]
    true = np.bincount(bins, weights=right, minlength=_NUM_BINS)[found] / numbers[found]
    return {
        "confidence_low": edges[found].tolist(),
        "confidence_high": edges[found + 1].tolist(),
        "num_images": numbers[found].tolist(),
        "confidence": sure.tolist(),
        "accuracy": true.tolist(),
    }


def _coverage(predictions: Predictions) -> dict[str, list[Any]]:
    """The accuracy of the predictions that are at least so sure, by the share that these are."""
    confidence = confidence_of(predictions)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    right = np.cumsum(predictions.correct[order])
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    thinned = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), _MOST_POINTS)).round())
    places = ends[thinned.astype(int)]
    return {
        "threshold": ordered[places].tolist(),
        "coverage": ((places + 1) / len(ordered)).tolist(),
        "accuracy": (right[places] / (places + 1)).tolist(),
    }
