"""Intervals hold their level, and are of the figures that are shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from classifier.evaluation import weighted
from classifier.evaluation.intervals import Cells, of_cells, of_images, of_proportion
from classifier.evaluation.metrics import evaluate
from tests.evaluation.test_metrics import labels, predictions

ROUNDS = 120
LEAST = 0.90  # of these, with a level of 95 %: two standard deviations below


def population(num_classes: int, right: float) -> Any:
    matrix = np.full((num_classes, num_classes), (1 - right) / (num_classes - 1))
    np.fill_diagonal(matrix, right)
    return matrix / num_classes


@pytest.mark.parametrize(
    "name, num_classes, right, num_images",
    [
        ("f1_score", 4, 0.98, 50), ("f1_score", 10, 0.95, 200), ("f1_score", 2, 0.99, 200),
        ("recall", 4, 0.8, 100), ("cohen_kappa", 3, 0.6, 400), ("matthews_corr_coef", 2, 0.9, 100),
    ],
)  # fmt: skip
def test_intervals_of_counts_hold_their_level(
    name: str, num_classes: int, right: float, num_images: int
) -> None:
    rng = np.random.default_rng(3)
    matrix = population(num_classes, right)
    statistic = getattr(weighted, name)
    sums = [np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)]
    truth = float(statistic(*(values[None] for values in sums))[0])
    held = 0
    for _ in range(ROUNDS):
        found = rng.multinomial(num_images, matrix.ravel()).reshape(matrix.shape)
        low, high = of_cells(Cells.of(found), {name: statistic})[name]
        held += low <= truth <= high
    assert held / ROUNDS >= LEAST


@pytest.mark.parametrize("share, num_images", [(0.98, 50), (0.8, 100), (0.5, 30), (0.999, 500)])
def test_intervals_of_proportions_hold_their_level(share: float, num_images: int) -> None:
    found = np.random.default_rng(4).binomial(num_images, share, size=2000)
    intervals = {k: of_proportion(k, num_images) for k in set(found.tolist())}
    held = [low <= share <= high for low, high in (intervals[k] for k in found.tolist())]
    assert np.mean(held) >= 0.95


def test_intervals_of_means_hold_their_level() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(ROUNDS):
        values = rng.exponential(size=150)  # losses are lopsided
        low, high = of_images(weighted.means({"": values}), len(values))[""]
        held += low <= 1.0 <= high
    assert held / ROUNDS >= LEAST


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_intervals_of_orders_hold_their_level(name: str, distance: float) -> None:
    rng = np.random.default_rng(6)
    held, rounds = 0, 100

    def draw(num: int) -> Any:
        truth = rng.random(num) < 0.4
        return rng.normal(size=num) + distance * truth, truth

    reference = sk.roc_auc_score if name == "auroc" else sk.average_precision_score
    scores, truth = draw(200_000)
    real = reference(truth, scores)
    for _ in range(rounds):
        scores, truth = draw(120)
        scores, truth = weighted.with_extremes(scores, truth)
        statistic = weighted.orders(scores, truth)
        low, high = of_images(statistic, 120, pseudo=weighted.NUM_EXTREMES)[name]
        held += low <= real <= high
    assert held / rounds >= 0.88


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_weighted_orders_are_those_of_repeated_images(name: str) -> None:
    rng = np.random.default_rng(7)
    scores, truth = rng.integers(6, size=40) / 5, rng.random(40) < 0.5  # with ties
    weights = rng.integers(4, size=(3, 40)).astype(float)
    reference = sk.roc_auc_score if name == "auroc" else sk.average_precision_score
    expected = [
        reference(np.repeat(truth, row.astype(int)), np.repeat(scores, row.astype(int)))
        for row in weights
    ]
    np.testing.assert_allclose(weighted.orders(scores, truth)(weights)[name], expected)


@pytest.mark.parametrize("given", [predictions(200, 2), predictions(200, 7), labels(150, 3)])
def test_every_headline_figure_lies_within_its_interval(given: Any) -> None:
    for name, estimate in evaluate(given, "test").estimates.items():
        assert estimate.low is not None and estimate.high is not None, name
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.low < estimate.high, name
        bounded = name not in ("log_loss", "cohen_kappa", "matthews_corr_coef")
        assert not bounded or (estimate.low >= 0 and estimate.high <= 1.0001), name


def test_perfect_score_of_few_images_is_not_certain() -> None:
    given = predictions(40, 3)
    perfect = evaluate(
        type(given)(
            given.class_names, given.task, given.paths, np.eye(3)[given.targets], given.targets,
            given.targets,
        ),
        "test",
    )  # fmt: skip
    for name in ("accuracy", "f1_score", "cohen_kappa"):
        estimate = perfect.estimates[name]
        assert estimate.value == estimate.high == 1.0
        assert estimate.low is not None and estimate.low < 0.98


def test_intervals_of_many_images_are_those_of_the_normal_distribution() -> None:
    values = np.random.default_rng(8).exponential(size=60_000)
    low, high = of_images(weighted.means({"": values}), len(values))[""]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
