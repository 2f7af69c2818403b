"""The paired bootstrap: the figures of several runs on the same resamples of their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.results import Predictions

Floats = NDArray[np.float64]

_CELLS = 2_000_000  # of a block of weights: 8 MB
_SMALLEST = float(np.finfo(np.float64).eps)  # a probability of 0 has no logarithm


def measured(runs: Sequence[Predictions]) -> Floats:
    """(K, M) the figures of runs on the same images."""
    figures = Figures(runs)
    counts = np.repeat([1.0, 0.0], [len(runs[0]), figures.num_added])
    return np.asarray(figures(counts[:, None].astype(np.float32))[0])


def resample(runs: Sequence[Predictions], num_resamples: int, seed: int) -> Floats:
    """The figures of all runs on resamples of the images, the same ones for every run.

    Where two runs disagree on hardly any image, resamples vary too little. So an image is added
    for each run that it alone has right, in equal shares of all classes.

    Source: Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data, 2012.

    Args:
        runs: K runs on the same N images, in the same order.
        num_resamples: R.
        seed: Of the draws.

    Returns:
        (R, K, M), in the order of the task's metrics.
    """
    rng = np.random.default_rng(seed)
    figures = Figures(runs)
    num_images, num_runs, num_added = len(runs[0]), len(runs), figures.num_added
    size = max(1, _CELLS // (num_images + num_added))
    blocks = []
    for start in range(0, num_resamples, size):
        weights = np.empty((min(size, num_resamples - start), num_images + num_added), np.float32)
        added = rng.binomial(num_images, num_runs / (num_images + num_runs), len(weights))
        for row, num in zip(weights, added, strict=True):
            real = rng.integers(0, num_images, num_images - num)
            row[:num_images] = np.bincount(real, minlength=num_images)
            extra = rng.integers(0, num_added, num)
            row[num_images:] = np.bincount(extra, minlength=num_added)
        blocks.append(figures(np.ascontiguousarray(weights.T)))
    return np.concatenate(blocks)


class Figures:
    """The figures of runs where images count several times, or not at all.

    Averages over classes are over those that have images. Behind the images come the added ones:
    for each run and each class that there is, one that this run alone has right.

    Args:
        runs: K runs on the same N images, in the same order.
    """

    def __init__(self, runs: Sequence[Predictions]) -> None:
        first = runs[0]
        self._several, num_classes = first.several, len(first.class_names)
        self._losses = np.stack([losses_of(run) for run in runs])
        present = np.flatnonzero(first.support)
        self.num_added = len(runs) * len(present)
        if first.several:
            truth = np.eye(num_classes, dtype=bool)[present]
            wrong = np.zeros_like(truth)
        else:
            truth, wrong = present[:, None], (present[:, None] + 1) % num_classes
        columns = [np.concatenate([_as_columns(first.targets), *[truth] * len(runs)])]
        for own, run in enumerate(runs):
            more = [truth if k == own else wrong for k in range(len(runs))]
            columns.append(np.concatenate([_as_columns(run.predicted), *more]))
        # Images with the same truth and the same predictions are counted once, as one.
        cells, cell_of = np.unique(np.hstack(columns), axis=0, return_inverse=True)
        self._cells = _Members(cell_of.ravel(), len(cells))
        targets, *predicted = np.split(cells, len(runs) + 1, axis=1)
        self._support = _Members(targets, num_classes)
        self._right = [np.flatnonzero((targets == p).all(axis=1)) for p in predicted]
        self._taken = [_Members(p, num_classes) for p in predicted]
        if self._several:
            self._hits = [_Members(p & targets, num_classes) for p in predicted]
        else:
            self._hits = [_Members(targets, num_classes, right) for right in self._right]

    def __call__(self, weights: NDArray[np.float32]) -> Floats:
        """The figures on B resamples of the images.

        Args:
            weights: (N + num_added, B) how often each image counts. In log_loss, which has no
                right and wrong, the added ones do not.

        Returns:
            (B, K, M), in the order of the task's metrics.
        """
        real = weights[: self._losses.shape[1]]
        losses = self._losses @ real.astype(np.float64) / real.sum(axis=0)
        cells = self._cells.sums(weights).astype(np.float64)
        total = cells.sum(axis=0)
        support = self._support.sums(cells)
        present = support > 0
        rows = []
        for k, loss in enumerate(losses):
            hits, taken = self._hits[k].sums(cells), self._taken[k].sums(cells)
            f1_score = _mean(2 * hits, support + taken, present)
            share = cells[self._right[k]].sum(axis=0) / total
            if self._several:
                rows.append([f1_score, share, loss])
            else:
                rows.append([share, f1_score, _mean(hits, support, present), loss])
        return np.asarray(rows, dtype=np.float64).transpose(2, 0, 1)


def _as_columns(classes: NDArray[Any]) -> NDArray[Any]:
    """Class indices (N) as (N, 1); flags (N, C) as they are."""
    return classes if classes.ndim == 2 else classes[:, None]


class _Members:
    """The images of each class, as one block of rows after the other.

    Args:
        classes: Class indices (N) or (N, 1), or flags (N, C) of any number of classes.
        num_classes: C.
        rows: Images that count; None is all.
    """

    def __init__(
        self, classes: NDArray[Any], num_classes: int, rows: NDArray[np.intp] | None = None
    ) -> None:
        if classes.dtype == bool:
            found, members = np.nonzero(classes.T)
        else:
            classes = classes.ravel()
            members = np.arange(len(classes)) if rows is None else rows
            members = members[np.argsort(classes[members], kind="stable")]
            found = classes[members]
        self._num_classes, self._rows = num_classes, members
        self._classes, self._starts = np.unique(found, return_index=True)

    def sums(self, weights: NDArray[Any]) -> NDArray[Any]:
        """(C, B) of weights (N, B)."""
        sums = np.zeros((self._num_classes, weights.shape[1]), weights.dtype)
        if len(self._rows):
            sums[self._classes] = np.add.reduceat(weights[self._rows], self._starts, axis=0)
        return sums


def _mean(numerator: Floats, denominator: Floats, present: NDArray[np.bool_]) -> Floats:
    """(B) the mean of shares over the classes that are present, of (C, B) each."""
    share = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=present)
    return np.asarray(share.sum(axis=0) / present.sum(axis=0))


def losses_of(run: Predictions) -> Floats:
    """(N) -log of the truth's probability; of several labels the mean of the cross entropies."""
    if run.several:
        of_truth = np.where(run.targets, run.probabilities, 1 - run.probabilities)
        return np.asarray(-np.log(np.clip(of_truth, _SMALLEST, 1.0)).mean(axis=1))
    of_truth = run.probabilities[np.arange(len(run)), run.targets]
    return np.asarray(-np.log(np.clip(of_truth, _SMALLEST, 1.0)))
