"""Figures of several runs on the same images, and which differences are more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.comparison.matching import align
from classifier.evaluation.comparison.paired import measured, resample
from classifier.evaluation.results import MULTILABEL, Estimate, Predictions

Floats = NDArray[np.float64]

LOWER_IS_BETTER = frozenset({"log_loss"})
CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# The most important first: it leads the line that is said of a pair.
_METRICS = ("accuracy", "f1_score", "balanced_accuracy", "log_loss")
_METRICS_MULTILABEL = ("f1_score", "exact_match", "log_loss")


@dataclass(frozen=True)
class Difference:
    """What tells two runs apart on one metric.

    Args:
        metric: Its name.
        first: Name of a run.
        second: Name of the other.
        estimate: First minus second, with the interval that holds for all pairs together.
        better: Name of the better run; None where the interval holds zero.
    """

    metric: str
    first: str
    second: str
    estimate: Estimate
    better: str | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, on the images that all of them have.

    Args:
        names: Of the runs.
        task: multiclass or multilabel.
        metrics: Names, the most important first.
        num_images: Images that all runs have.
        estimates: Run -> metric -> its value on these images, with its own 95 % interval.
        differences: Of every pair on every metric, pair by pair.
        num_resamples: Of the bootstrap.
    """

    names: tuple[str, ...]
    task: str
    metrics: tuple[str, ...]
    num_images: int
    estimates: dict[str, dict[str, Estimate]]
    differences: list[Difference]
    num_resamples: int

    @property
    def num_pairs(self) -> int:
        """Pairs of runs, k (k - 1) / 2."""
        return len(self.names) * (len(self.names) - 1) // 2


def compare(
    runs: Mapping[str, Predictions], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare runs by a paired bootstrap: every resample of the images is seen by all runs.

    What makes an image hard makes it hard for all runs; seen by all alike, it says nothing about
    their difference, and the interval is narrower than that of two samples. With several pairs
    every interval is widened after Bonferroni, so that with a probability of 95 % none of them,
    for one metric, misses its true difference. Few resamples lie in tails so far out: the 95 %
    interval is lengthened, by the ratio of the normal quantiles.

    Source: Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004;
    Hall, On Symmetric Bootstrap Confidence Intervals, 1988.

    Args:
        runs: At least two, by name.
        num_resamples: At least 100.
        seed: Of the resamples; the same runs get the same intervals.

    Raises:
        ConfigError: the runs do not speak of the same classes, images or truth.
    """
    names = tuple(runs)
    aligned = align(runs)
    first = aligned[0]
    metrics = _METRICS_MULTILABEL if first.task == MULTILABEL else _METRICS
    values = measured(aligned)
    resampled = resample(aligned, num_resamples, seed)
    estimates = {
        name: dict(zip(metrics, _own_intervals(metrics, values[k], resampled[:, k]), strict=True))
        for k, name in enumerate(names)
    }
    pairs = list(combinations(range(len(names)), 2))
    wider = widening(len(pairs))
    differences = []
    for a, b in pairs:
        intervals = _intervals(values[a] - values[b], resampled[:, a] - resampled[:, b], wider)
        for metric, estimate in zip(metrics, intervals, strict=True):
            better = _better(metric, estimate, names[a], names[b])
            differences.append(Difference(metric, names[a], names[b], estimate, better))
    return Comparison(
        names, first.task, metrics, len(first), estimates, differences, num_resamples
    )  # fmt: skip


def _own_intervals(metrics: Sequence[str], values: Floats, resampled: Floats) -> list[Estimate]:
    """Figures of one run (M) and their resamples (R, M) -> an interval each."""
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    lows, highs = values + np.quantile(resampled - resampled.mean(axis=0), tails, axis=0)
    most = [math.inf if metric == "log_loss" else 1.0 for metric in metrics]
    return [
        Estimate(float(value), max(0.0, float(low)), min(bound, float(high)))
        for value, low, high, bound in zip(values, lows, highs, most, strict=True)
    ]


def widening(num_pairs: int) -> float:
    """By what the arms of an interval are lengthened where several hold together.

    Source: Dunn, Multiple Comparisons among Means, 1961, which is Bonferroni's inequality.

    Args:
        num_pairs: At least 1, which widens nothing.
    """
    together = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / num_pairs)
    return together / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _intervals(values: Floats, resampled: Floats, wider: float) -> list[Estimate]:
    """Differences (M) and their resamples (R, M) -> an interval each.

    Symmetric: the percentiles of a skewed distribution lean away from where the truth may be, and
    on few disagreements would find differences that McNemar's exact test does not.
    """
    deviations = np.abs(resampled - resampled.mean(axis=0))
    arms = wider * np.quantile(deviations, CONFIDENCE, axis=0)
    return [
        Estimate(float(value), float(value - arm), float(value + arm))
        for value, arm in zip(values, arms, strict=True)
    ]


def _better(metric: str, difference: Estimate, first: str, second: str) -> str | None:
    assert difference.low is not None and difference.high is not None
    if difference.low <= 0 <= difference.high:
        return None
    return first if (difference.low > 0) != (metric in LOWER_IS_BETTER) else second
