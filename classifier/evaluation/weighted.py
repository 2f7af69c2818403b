"""Figures of weighted images: what an interval computes for thousands of resamples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
OfImages = Callable[[Array], dict[str, Array]]

# Images added when scores are resampled: of each kind one above and one below all others. Where
# all are in the right order no resample has a wrong pair, and the interval would be a point.
NUM_EXTREMES = 4


# Of right images, images and predictions of each class, each (B, C), in B resamples: (B,).


def _mean_of_present(values: Array, images: Array) -> Array:
    present = images > 0
    numbers = present.sum(axis=1)
    return np.asarray(np.where(present, values, 0.0).sum(axis=1) / np.maximum(numbers, 1))


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below != 0)


def precision(right: Array, images: Array, taken: Array) -> Array:
    """Macro precision over the classes that have images."""
    return _mean_of_present(_ratio(right, taken), images)


def recall(right: Array, images: Array, taken: Array) -> Array:
    """Macro recall over the classes that have images: balanced accuracy."""
    return _mean_of_present(_ratio(right, images), images)


def f1_score(right: Array, images: Array, taken: Array) -> Array:
    """Macro F1 score over the classes that have images."""
    return _mean_of_present(_ratio(2.0 * right, images + taken), images)


def cohen_kappa(right: Array, images: Array, taken: Array) -> Array:
    """Agreement beyond chance."""
    total = images.sum(axis=1)
    observed = right.sum(axis=1) / total
    expected = (images * taken).sum(axis=1) / total**2
    return np.asarray(_undefined(observed - expected, 1.0 - expected))


def matthews_corr_coef(right: Array, images: Array, taken: Array) -> Array:
    """Matthews' correlation of truth and prediction, of any number of classes."""
    total = images.sum(axis=1)
    together = right.sum(axis=1) * total - (images * taken).sum(axis=1)
    spread = (total**2 - (images**2).sum(axis=1)) * (total**2 - (taken**2).sum(axis=1))
    return _undefined(together, np.sqrt(np.maximum(spread, 0.0)))


OF_CELLS = {
    "f1_score": f1_score,
    "balanced_accuracy": recall,
    "precision": precision,
    "recall": recall,
    "cohen_kappa": cohen_kappa,
    "matthews_corr_coef": matthews_corr_coef,
}


def _undefined(above: Array, below: Array) -> Array:
    """A quotient that is not a number where there is nothing to divide by."""
    nothing = np.full_like(above, np.nan)
    return np.divide(above, below, out=nothing, where=below > 1e-12)


# Of weights (B, N), how often each image counts: name -> (B,).


def means(columns: Mapping[str, Array]) -> OfImages:
    """The means of values (N,), by name."""
    names, values = list(columns), np.stack(list(columns.values()), axis=1)

    def statistic(weights: Array) -> dict[str, Array]:
        found = (weights @ values) / weights.sum(axis=1, keepdims=True)
        return dict(zip(names, found.T, strict=True))

    return statistic


def of_labels(truth: Flags, decided: Flags) -> OfImages:
    """precision, recall and f1_score of several labels.

    Args:
        truth: (N, C).
        decided: (N, C).
    """
    flags = (truth & decided, truth, decided)
    # Counts of images, which float32 holds exactly up to 16 million.
    right, images, taken = (columns.astype(np.float32) for columns in flags)

    def statistic(weights: Array) -> dict[str, Array]:
        often = weights.astype(np.float32)
        sums = [(often @ columns).astype(np.float64) for columns in (right, images, taken)]
        return {
            "precision": precision(*sums),
            "recall": recall(*sums),
            "f1_score": f1_score(*sums),
        }

    return statistic


def with_extremes(scores: Array, truth: Flags) -> tuple[Array, Flags]:
    """Scores (N,) and truth (N,) with NUM_EXTREMES images more behind them."""
    infinite = np.inf
    return (
        np.concatenate([scores, [infinite, -infinite, infinite, -infinite]]),
        np.concatenate([truth, [True, True, False, False]]),
    )


def orders(scores: Array, truth: Flags) -> OfImages:
    """Auroc and average_precision.

    auroc is how often a positive image is before a negative one; average_precision the precision
    at every positive image, averaged.

    Args:
        scores: (N,) higher is more positive.
        truth: (N,).
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # The last place of each run of equal scores.
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    positive = truth[order]

    def statistic(weights: Array) -> dict[str, Array]:
        counts = weights[:, order]
        seen = np.cumsum(counts, axis=1)[:, ends]
        found = np.cumsum(counts * positive, axis=1)[:, ends]
        gained = np.diff(found, axis=1, prepend=0.0)
        wrong = seen - found
        # Negative images behind each; of those beside it the half.
        behind = wrong[:, -1:] - wrong + np.diff(wrong, axis=1, prepend=0.0) / 2.0
        return {
            "auroc": _undefined((gained * behind).sum(axis=1), found[:, -1] * wrong[:, -1]),
            "average_precision": _undefined(
                (gained * _ratio(found, seen)).sum(axis=1), found[:, -1]
            ),
        }

    return statistic


def orders_of_labels(scores: Array, truth: Flags) -> OfImages:
    """Auroc and average_precision of several labels, averaged over those that have images.

    Args:
        scores: (N, C).
        truth: (N, C).
    """
    present = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    each = [orders(scores[:, index], truth[:, index]) for index in present]

    def statistic(weights: Array) -> dict[str, Array]:
        values = [one(weights) for one in each]
        means = {}
        for name in ("auroc", "average_precision") if values else ():
            found = np.stack([value[name] for value in values])
            known = np.isfinite(found)
            numbers = known.sum(axis=0).astype(np.float64)
            means[name] = _ratio(np.where(known, found, 0.0).sum(axis=0), numbers)
        return means

    return statistic
