"""95 % intervals of figures, by resampling the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], dict[str, Array]]

LEVEL = 0.95
_SEED = 0
_MOST, _LEAST = 2000, 100  # resamples
_WORK = 1e7  # numbers looked at in all
_PSEUDO = 4.0  # images
_CHUNK = 100  # resamples at a time
_NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class Cells:
    """Images counted by truth and prediction: all that accuracy, F1 score and the like depend on.

    Args:
        truth: (K,) class index of each cell.
        predicted: (K,) class index of each cell.
        counts: (K,) images, above 0.
        num_classes: Of the data.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: Array
    num_classes: int

    @classmethod
    def of(cls, confusion: NDArray[np.int64]) -> Cells:
        """The cells of a confusion matrix (C, C) that have images."""
        truth, predicted = np.nonzero(confusion)
        counts = confusion[truth, predicted].astype(np.float64)
        return cls(truth, predicted, counts, len(confusion))

    def smoothed(self) -> Cells:
        """With four images more in all, half of each class that there is right, half wrong.

        Where no image was wrong no resample has a wrong one, and the interval would be a point.
        """
        present = np.unique(self.truth)
        if len(present) > 1:
            wrong = np.roll(present, 1)
        else:
            wrong = (present + 1) % max(self.num_classes, 2)
        share = np.full(len(present), _PSEUDO / 2 / len(present))
        return Cells(
            np.concatenate([self.truth, present, present]),
            np.concatenate([self.predicted, present, wrong]),
            np.concatenate([self.counts, share, share]),
            max(self.num_classes, 2),
        )

    def sums(self, counts: Array) -> tuple[Array, Array, Array]:
        """Right images, images and predictions of each class, each (B, C).

        Args:
            counts: (B, K) images in each cell.
        """
        right = self.truth == self.predicted
        return (
            self._by_class(counts[:, right], self.truth[right]),
            self._by_class(counts, self.truth),
            self._by_class(counts, self.predicted),
        )

    def _by_class(self, counts: Array, classes: NDArray[np.int64]) -> Array:
        sums = np.zeros((len(counts), self.num_classes))
        if len(classes):
            order = np.argsort(classes, kind="stable")
            found, starts = np.unique(classes[order], return_index=True)
            sums[:, found] = np.add.reduceat(counts[:, order], starts, axis=1)
        return sums


Interval = tuple[float, float]
OfSums = Callable[[Array, Array, Array], Array]


def of_cells(cells: Cells, statistics: Mapping[str, OfSums]) -> dict[str, Interval]:
    """The intervals of figures that depend on the confusion matrix alone.

    The spread of resamples, with four images added (Agresti and Coull's remedy for proportions),
    around what was measured.

    Args:
        cells: Of all images.
        statistics: Name -> (B,) values of right images, images and predictions (each (B, C)).
    """
    more = cells.smoothed()
    num_images = int(cells.counts.sum())
    shares = more.counts / more.counts.sum()
    rng = np.random.default_rng(_SEED)
    drawn = [
        more.sums(rng.multinomial(num_images, shares, size=size).astype(np.float64))
        for size in _sizes(len(shares))
    ]
    measured = cells.sums(cells.counts[None])
    return {
        name: _around(
            float(statistic(*measured)[0]), np.concatenate([statistic(*sums) for sums in drawn])
        )
        for name, statistic in statistics.items()
    }


def of_images(
    statistic: Statistic, num_images: int, *, pseudo: int = 0, cost: int | None = None
) -> dict[str, Interval]:
    """The intervals of figures of single images.

    Args:
        statistic: Name -> (B,) values of weights (B, num_images + pseudo): how often each image
            counts.
        num_images: Real images, the first in their order.
        pseudo: Images behind them that are added in resamples and do not count in the figures.
        cost: Numbers that a resample looks at; None is num_images. More of them, fewer resamples.
    """
    rng = np.random.default_rng(_SEED)
    total = num_images + pseudo
    sizes = _sizes(cost or num_images)
    drawn = [statistic(_weights(rng, size, num_images, total)) for size in sizes]
    own = np.concatenate([np.ones(num_images), np.zeros(pseudo)])
    return {
        name: _around(float(value[0]), np.concatenate([values[name] for values in drawn]))
        for name, value in statistic(own[None]).items()
    }


def of_proportion(num_right: int, num_images: int) -> tuple[float, float]:
    """The interval of a share of images: the exact one, which needs no resampling.

    Source: Clopper and Pearson, The use of confidence or fiducial limits (1934).

    Args:
        num_right: Of num_images.
        num_images: At least 1.
    """
    from scipy.stats import binomtest

    found = binomtest(num_right, num_images).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def _sizes(num: int) -> Iterator[int]:
    """Numbers of resamples, in portions that fit into memory."""
    left = int(np.clip(_WORK / max(num, 1), _LEAST, _MOST))
    chunk = max(1, min(_CHUNK, int(_WORK / max(num, 1))))
    while left > 0:
        yield min(chunk, left)
        left -= chunk


def _weights(rng: np.random.Generator, size: int, num_images: int, total: int) -> Array:
    drawn = rng.integers(total, size=(size, num_images))
    drawn += total * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total).astype(float)


def _around(measured: float, values: Array) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return measured, measured
    deviations = values - values.mean()
    if len(values) < _MOST / 2:  # too few for their outermost ones to say much
        half = _NORMAL_QUANTILE * float(deviations.std())
        return measured - half, measured + half
    low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return measured + float(low), measured + float(high)
