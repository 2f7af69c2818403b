"""Probabilities that are as sure as they are right, and the thresholds that decide best by them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.results import MULTILABEL
from classifier.evaluation.settings import TUNABLE_METRICS

log = logging.getLogger(__name__)

MOST_EXTREME = 100.0  # temperatures beyond it, or below its inverse, are no finding
_DEFAULT = 0.5
# What float32 cannot tell from 0 and 1: a probability that was written as 0 is at most the first.
_LOWEST = float(np.finfo(np.float32).tiny)
_HIGHEST = 1.0 - 2.0**-25
# Probabilities have eight significant digits in predictions.csv: closer ones may be the same.
_SAME = 1e-6

Floats = NDArray[np.float64]
Counts = NDArray[np.float64]


def fit_temperature(probabilities: Floats, targets: NDArray[Any], task: str) -> float:
    """The temperature T > 0 by which logits are divided for the least negative log likelihood.

    In multilabel the likelihood is that of all labels, each for itself (binary cross entropy).
    The order of the classes stays as it is, and so does every argmax.

    Args:
        probabilities: (N, C) in [0, 1], which stand for the logits that they were made of.
        targets: (N,) class indices; in multilabel (N, C) bool.
        task: multiclass or multilabel.

    Returns:
        1.0, which changes nothing, where the best one lies outside of [0.01, 100]: where every
        prediction is right the loss falls with T without an end, and where they are no better than
        chance it falls as T grows. The log says so.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    from scipy.optimize import brentq

    slope = _slope(_logits(probabilities, task), targets, task)
    edge = float(np.log(MOST_EXTREME))
    # The loss is convex in 1 / T: its slope rises, and is 0 in one place at most.
    if slope(-edge) >= 0.0:
        log.warning("no temperature: the validation images are predicted no better than by chance")
        return 1.0
    if slope(edge) <= 0.0:
        log.warning("no temperature: every validation image is right, so that none can be told")
        return 1.0
    return float(np.exp(-brentq(slope, -edge, edge, xtol=1e-9)))


def at_temperature(probabilities: Floats, temperature: float, task: str) -> Floats:
    """Probabilities (N, C) as they are once the logits were divided by a temperature.

    Args:
        probabilities: (N, C) in [0, 1]; the very same ones at a temperature of 1.
        temperature: Above 0. Its inverse leads back.
        task: multiclass or multilabel.
    """
    if temperature == 1.0:
        return probabilities
    return _probabilities(_logits(probabilities, task) / temperature, task)


def log_loss(probabilities: Floats, targets: NDArray[Any], task: str) -> float:
    """The mean of -log of the truth's probability; in multilabel over images and labels.

    Args:
        probabilities: (N, C) in [0, 1]; the truth's counts as 2e-16 at least, as in scikit-learn.
        targets: (N,) class indices; in multilabel (N, C) bool.
        task: multiclass or multilabel.
    """
    if task == MULTILABEL:
        of_truth = np.where(targets, probabilities, 1.0 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1.0)).mean())


@dataclass(frozen=True)
class TunedThresholds:
    """Thresholds, and what they bring on the images that they were chosen on.

    Args:
        values: For every class, in (0, 1); of two classes one number, of the positive one.
        unsettled: Indices of classes that all images have, or none: theirs is the default.
        rarest: For every class the images with it or without it, whichever are fewer.
        before: The metric with the defaults, as a mean over the classes that were settled; None
            where none was.
        after: The same with `values`.
    """

    values: list[float]
    unsettled: list[int]
    rarest: list[int]
    before: float | None
    after: float | None


def tune_thresholds(
    probabilities: Floats,
    targets: NDArray[Any],
    metric: str,
    *,
    defaults: Sequence[float] | None = None,
    positive: int | None = None,
) -> TunedThresholds:
    """The probability from which on an image has a class, chosen for the best of a metric.

    Every cut between two probabilities is tried. Among equally good ones the default is kept if it
    is one of them, and else the one nearest to it.

    Args:
        probabilities: (N, C) in [0, 1].
        targets: (N, C) bool, for several labels; (N,) class indices, for two classes.
        metric: One of TUNABLE_METRICS. Of several labels each is tuned for itself, which is the
            best for the mean over them. Of two classes f1_score is the mean of both, as logged.
        defaults: For several labels in (0, 1); None is 0.5.
        positive: Of two classes the index of the one that the threshold is for; else None.
    """
    truth = np.asarray(targets, dtype=bool)
    macro = positive is not None
    if positive is not None:
        truth = (np.asarray(targets) == positive)[:, None]
        probabilities = probabilities[:, positive, None]
    given = [_DEFAULT] * truth.shape[1] if defaults is None else list(defaults)
    values, unsettled, before, after = list(given), [], [], []
    for index, default in enumerate(given):
        has = truth[:, index]
        if has.all() or not has.any():
            unsettled.append(index)
            continue
        cuts, scores = _scores(probabilities[:, index], has, metric, default, macro=macro)
        values[index], best = _best(cuts, scores, default)
        before.append(scores[cuts == default][0])
        after.append(best)
    counts = truth.sum(axis=0)
    return TunedThresholds(
        values, unsettled, np.minimum(counts, len(truth) - counts).tolist(),
        float(np.mean(before)) if before else None, float(np.mean(after)) if after else None,
    )  # fmt: skip


def _logits(probabilities: Floats, task: str) -> Floats:
    """Logits that give these probabilities; in multiclass one choice of many, at most 0."""
    if task == MULTILABEL:
        chances = np.clip(probabilities, _LOWEST, _HIGHEST)
        logits: Floats = np.log(chances) - np.log1p(-chances)
        return logits
    return np.asarray(np.log(np.clip(probabilities, _LOWEST, 1.0)))


def _probabilities(logits: Floats, task: str) -> Floats:
    if task == MULTILABEL:
        from scipy.special import expit

        return np.asarray(expit(logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _slope(logits: Floats, targets: NDArray[Any], task: str) -> Callable[[float], float]:
    """The derivative of the loss by 1 / T, as a function of log(1 / T)."""

    def slope(log_inverse: float) -> float:
        chances = _probabilities(logits * np.exp(log_inverse), task)
        if task == MULTILABEL:
            return float((logits * (chances - targets)).mean())
        truth = logits[np.arange(len(targets)), targets]
        return float(((chances * logits).sum(axis=1) - truth).mean())

    return slope


def _scores(
    chances: Floats, has: NDArray[np.bool_], metric: str, default: float, *, macro: bool
) -> tuple[Floats, Floats]:
    """Thresholds, the default among them and else one between any two probabilities: their scores.

    Args:
        chances: (N,) of one class.
        has: (N,) whether an image has it; some have, some have not.
        metric: One of TUNABLE_METRICS.
        default: In (0, 1).
        macro: Whether F1 is the mean of that of having the class and that of not having it.
    """
    order = np.argsort(chances)
    ordered = chances[order]
    edges = np.concatenate(([0.0], ordered, [1.0]))
    apart = np.diff(edges) > _SAME * edges[1:]
    # Images below each cut: before the first, between two, behind the last.
    below = np.flatnonzero(apart)
    cuts = np.concatenate(((edges[below] + edges[below + 1]) / 2, [default]))
    below = np.concatenate((below, [int((ordered < default).sum())]))
    with_it = np.concatenate(([0], np.cumsum(has[order])))
    missed = with_it[below].astype(np.float64)
    rejected = below - missed
    found = with_it[-1] - missed
    wrong = len(chances) - with_it[-1] - rejected
    return cuts, _SCORES[metric](found, wrong, missed, rejected, macro)


def _best(cuts: Floats, scores: Floats, default: float) -> tuple[float, float]:
    """The best threshold, the nearest to the default among equals, and its score."""
    best = float(scores.max())
    candidates = cuts[scores >= best - 1e-12]
    return float(candidates[np.abs(candidates - default).argmin()]), best


def _f1(tp: Counts, fp: Counts, fn: Counts, tn: Counts, macro: bool) -> Floats:
    with_it = 2 * tp / (2 * tp + fp + fn)
    return (with_it + 2 * tn / (2 * tn + fp + fn)) / 2 if macro else with_it


def _balanced(tp: Counts, fp: Counts, fn: Counts, tn: Counts, macro: bool) -> Floats:
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def _accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts, macro: bool) -> Floats:
    return (tp + tn) / (tp + fp + fn + tn)


def _matthews(tp: Counts, fp: Counts, fn: Counts, tn: Counts, macro: bool) -> Floats:
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    # All images on one side of the threshold: 0 by convention.
    return np.divide(tp * tn - fp * fn, spread, out=np.zeros_like(tp), where=spread > 0)


_SCORES: dict[str, Callable[..., Floats]] = dict(
    zip(TUNABLE_METRICS, (_f1, _balanced, _accuracy, _matthews), strict=True)
)
