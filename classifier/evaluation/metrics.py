"""From predictions to an Evaluation: torchmetrics for figures, resampling for intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchmetrics.functional.classification as of
from numpy.typing import NDArray
from torch import Tensor

from classifier.errors import RunError
from classifier.evaluation import weighted
from classifier.evaluation.curves import curves_of
from classifier.evaluation.intervals import Cells, of_cells, of_images, of_proportion
from classifier.evaluation.results import ClassFigures, Estimate, Evaluation, Predictions

NUM_BINS = 15  # of the calibration error, as in Guo et al. (2017)
_TOP_K = 5
_LIMITS = {
    "cohen_kappa": (-1.0, 1.0),
    "matthews_corr_coef": (-1.0, 1.0),
    "log_loss": (0.0, np.inf),
    "brier_score": (0.0, 2.0),
}
_RANKED = ("auroc", "average_precision")
_PER_CLASS = ("precision", "recall", "f1_score")

Array = NDArray[np.float64]
# By name: values in the order in which they are shown, and intervals.
Headlines = tuple[dict[str, float], dict[str, tuple[float, float]]]


def evaluate(
    predictions: Predictions,
    stage: str,
    positive_class: str | None = None,
    calibration: Mapping[str, Any] | None = None,
    abstain_below: float | None = None,
    thresholds: Sequence[float | None] | None = None,
) -> Evaluation:
    """Judge predictions.

    Averages are macro, over the classes that have images; `_micro` and `_weighted` are part of
    the name. In multilabel accuracy is the share of labels that are right, exact_match that of
    images.

    Args:
        predictions: With their truth.
        stage: validation or test.
        positive_class: Of two classes the one that scores are about; None is the second.
        calibration: What a calibration came to.
        abstain_below: Probability below which a prediction is undecided.
        thresholds: The probability from which on an image has a class, for each; None where it is
            the likeliest.

    Raises:
        ConfigError: there is no such positive class.
        RunError: no image could be decoded, or the model gives no numbers.
    """
    if not len(predictions):
        raise RunError(f"no image of the {stage} set could be decoded: there is nothing to judge")
    broken = int((~np.isfinite(predictions.probabilities)).any(axis=1).sum())
    if broken:
        raise RunError(
            f"the probabilities of {broken} of {len(predictions)} {stage} images are not numbers: "
            "the model has diverged. Train with a lower learning rate"
        )
    positive = predictions.positive(positive_class)
    classes = _class_figures(predictions, thresholds)
    losses = _losses(predictions)
    values, intervals = (_of_labels if predictions.several else _of_classes)(
        predictions, classes, losses, positive
    )
    return Evaluation(
        stage=stage,
        predictions=predictions,
        estimates={
            name: _estimate(name, value, intervals[name])
            for name, value in values.items()
            if np.isfinite(value)
        },
        figures=_figures(predictions, classes),
        classes=classes,
        absent=[figures.name for figures in classes if not figures.support],
        confusion=_confusion(predictions),
        curves=curves_of(predictions, positive),
        losses=losses,
        positive=positive,
        calibration=dict(calibration or {}),
        abstain_below=abstain_below,
    )


def _estimate(name: str, value: float, interval: tuple[float, float]) -> Estimate:
    least, most = _LIMITS.get(name, (0.0, 1.0))
    low, high = interval
    return Estimate(value, max(min(low, value), least), min(max(high, value), most))


def _tensors(predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, decisions and targets, as torchmetrics takes them."""
    return (
        torch.from_numpy(predictions.probabilities),
        torch.from_numpy(predictions.predicted.astype(np.int64)),
        torch.from_numpy(predictions.targets.astype(np.int64)),
    )


def _arguments(predictions: Predictions) -> dict[str, Any]:
    number = len(predictions.class_names)
    return {"num_labels" if predictions.several else "num_classes": number}


def _task(predictions: Predictions) -> str:
    return "multilabel" if predictions.several else "multiclass"


def _value(name: str, *given: Any, **arguments: Any) -> Any:
    """One of torchmetrics' functions; what it says of classes without images is told elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        # What its checks refuse here is a single class.
        return getattr(of, name)(*given, **arguments, validate_args=False)


def _class_figures(
    predictions: Predictions, thresholds: Sequence[float | None] | None
) -> list[ClassFigures]:
    probabilities, decided, targets = _tensors(predictions)
    task, arguments = _task(predictions), _arguments(predictions)
    arguments["average"] = "none"
    columns = {
        name: _value(f"{task}_{name}", decided, targets, **arguments).reshape(-1).tolist()
        for name in _PER_CLASS
    }
    scored = predictions.several or len(predictions.class_names) == 2
    for name in _RANKED if scored else ():
        values = _value(f"{task}_{name}", probabilities, targets, **arguments)
        columns[name] = values.reshape(-1).tolist()
    support = predictions.support
    if predictions.several:
        taken = predictions.predicted.sum(axis=0)
    else:
        taken = np.bincount(predictions.predicted, minlength=len(support))
    figures = []
    for index, name in enumerate(predictions.class_names):
        own = {key: values[index] for key, values in columns.items()}
        if not support[index]:
            own |= dict.fromkeys(("recall", "f1_score", "average_precision"))
        if support[index] in (0, len(predictions)):
            own["auroc"] = None
        own["threshold"] = thresholds[index] if thresholds else None
        figures.append(ClassFigures(name, int(support[index]), int(taken[index]), **own))
    return figures


def _macro(classes: list[ClassFigures], name: str) -> float:
    """The mean over the classes that have images, and where the figure is known."""
    values = [getattr(figures, name) for figures in classes if figures.support]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _figures(predictions: Predictions, classes: list[ClassFigures]) -> dict[str, float]:
    """Other averages, and the calibration error, which resampling would only inflate."""
    _, decided, targets = _tensors(predictions)
    task, arguments = _task(predictions), _arguments(predictions)
    support = np.array([figures.support for figures in classes], dtype=np.float64)
    figures: dict[str, float] = {}
    for name in _PER_CLASS:
        micro = _value(f"{task}_{name}", decided, targets, **arguments, average="micro")
        values = [getattr(one, name) or 0.0 for one in classes]
        figures[f"{name}_micro"] = float(micro)
        figures[f"{name}_weighted"] = float(np.average(values, weights=support))
    figures["calibration_error"] = calibration_error(predictions)
    return figures


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error, in [0, 1], of 15 bins of equal width.

    Of the likeliest class; in multilabel of all labels.

    Source: Guo et al., On calibration of modern neural networks (2017).
    """
    probabilities, _, targets = _tensors(predictions)
    if predictions.several:
        given = probabilities.flatten(), targets.flatten()
        return float(_value("binary_calibration_error", *given, n_bins=NUM_BINS))
    arguments = _arguments(predictions)
    error = _value(
        "multiclass_calibration_error", probabilities, targets, **arguments, n_bins=NUM_BINS
    )
    return float(error)


def _losses(predictions: Predictions) -> Array:
    smallest = np.finfo(np.float64).eps
    if predictions.several:
        truth = predictions.targets
        of_truth = np.where(truth, predictions.probabilities, 1.0 - predictions.probabilities)
        return np.asarray(-np.log(np.clip(of_truth, smallest, 1.0)).mean(axis=1))
    rows = np.arange(len(predictions))
    of_truth = predictions.probabilities[rows, predictions.targets]
    return np.asarray(-np.log(np.clip(of_truth, smallest, 1.0)))


def _brier(predictions: Predictions) -> Array:
    """(N,) squared distances from the truth, of two classes the half: Brier's, in [0, 1]."""
    several = predictions.several
    num_classes = len(predictions.class_names)
    truth = predictions.targets if several else np.eye(num_classes)[predictions.targets]
    squares = (predictions.probabilities - truth) ** 2
    if several:
        return np.asarray(squares.mean(axis=1))
    return np.asarray(squares.sum(axis=1) / (2 if num_classes == 2 else 1))


def _of_classes(
    predictions: Predictions, classes: list[ClassFigures], losses: Array, positive: int | None
) -> Headlines:
    """Headline figures of one label per image, and their intervals."""
    _, decided, targets = _tensors(predictions)
    arguments = _arguments(predictions)
    shares = {"accuracy": predictions.correct}
    if len(classes) > _TOP_K:
        best = np.argpartition(-predictions.probabilities, _TOP_K - 1, axis=1)[:, :_TOP_K]
        shares["accuracy_top5"] = (best == predictions.targets[:, None]).any(axis=1)
    means = {"log_loss": losses, "brier_score": _brier(predictions)}
    values = {
        "accuracy": float(shares["accuracy"].mean()),
        "f1_score": _macro(classes, "f1_score"),
        "balanced_accuracy": _macro(classes, "recall"),
        "precision": _macro(classes, "precision"),
        "recall": _macro(classes, "recall"),
        **{name: float(right.mean()) for name, right in shares.items()},
        "cohen_kappa": float(_value("multiclass_cohen_kappa", decided, targets, **arguments)),
        "matthews_corr_coef": float(
            _value("multiclass_matthews_corrcoef", decided, targets, **arguments)
        ),
    }
    intervals = of_cells(Cells.of(_confusion(predictions)), weighted.OF_CELLS)
    intervals |= {n: of_proportion(int(v.sum()), len(v)) for n, v in shares.items()}
    intervals |= of_images(weighted.means(means), len(predictions))
    if positive is not None and classes[positive].auroc is not None:
        for name in _RANKED:
            values[name] = float(getattr(classes[positive], name))
        scores, truth = weighted.with_extremes(
            predictions.probabilities[:, positive], predictions.targets == positive
        )
        intervals |= of_images(
            weighted.orders(scores, truth), len(predictions), pseudo=weighted.NUM_EXTREMES
        )
    values |= {name: float(column.mean()) for name, column in means.items()}
    return values, intervals


def _of_labels(
    predictions: Predictions, classes: list[ClassFigures], losses: Array, positive: int | None
) -> Headlines:
    """Headline figures of several labels per image, and their intervals."""
    truth, decided, scores = predictions.targets, predictions.predicted, predictions.probabilities
    number = len(predictions)
    means = {
        "accuracy": (truth == decided).mean(axis=1),
        "log_loss": losses,
        "brier_score": _brier(predictions),
    }
    values = {
        "f1_score": _macro(classes, "f1_score"),
        "average_precision": _macro(classes, "average_precision"),
        "exact_match": float(predictions.correct.mean()),
        "accuracy": float(means["accuracy"].mean()),
        "precision": _macro(classes, "precision"),
        "recall": _macro(classes, "recall"),
        "auroc": _macro(classes, "auroc"),
        "log_loss": float(means["log_loss"].mean()),
        "brier_score": float(means["brier_score"].mean()),
    }
    intervals = {
        "exact_match": of_proportion(int(predictions.correct.sum()), number),
        **of_images(weighted.of_labels(truth, decided), number, cost=number * len(classes) // 10),
        **of_images(weighted.orders_of_labels(scores, truth), number, cost=number * len(classes)),
        **of_images(weighted.means(means), number),
    }
    return values, intervals


def _confusion(predictions: Predictions) -> NDArray[np.int64]:
    """(C, C) by truth and prediction; in multilabel (C, 2, 2)."""
    number = len(predictions.class_names)
    truth, decided = predictions.targets, predictions.predicted
    if predictions.several:
        pairs = truth.astype(np.int64) * 2 + decided
        return np.stack([np.bincount(column, minlength=4).reshape(2, 2) for column in pairs.T])
    return np.bincount(truth * number + decided, minlength=number**2).reshape(number, number)
