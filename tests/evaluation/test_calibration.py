"""Temperature and thresholds: against SciPy on logits, scikit-learn, and every cut there is."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics

from classifier.evaluation.calibration import (
    at_temperature,
    fit_temperature,
    log_loss,
    tune_thresholds,
)
from classifier.evaluation.settings import TUNABLE_METRICS

SKLEARN: dict[str, Any] = {
    "f1_score": metrics.f1_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "accuracy": metrics.accuracy_score,
    "matthews_corr_coef": metrics.matthews_corrcoef,
}


def written(probabilities: Any) -> Any:
    """As predictions.csv has them: of float32, with eight digits."""
    numbers = np.asarray(probabilities, dtype=np.float32)
    return np.vectorize(lambda value: float(f"{value:.8g}"))(numbers)


def one_label(temperature: float, num: int = 20_000, seed: int = 0) -> tuple[Any, Any]:
    """Logits that are too large by a factor, and the classes that were drawn without it."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(num, 4)) * 2
    chances = softmax(logits, axis=1)
    targets = (chances.cumsum(axis=1) > random.random((num, 1))).argmax(axis=1)
    return logits * temperature, targets


def several_labels(temperature: float, num: int = 8_000, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(num, 3)) * 2
    return logits * temperature, random.random((num, 3)) < expit(logits)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_temperature_by_which_logits_were_made_is_found(task: str, true: float) -> None:
    several = task == "multilabel"
    logits, targets = (several_labels if several else one_label)(true)
    chances = expit(logits) if several else softmax(logits, axis=1)
    assert fit_temperature(written(chances), targets, task) == pytest.approx(true, rel=0.03)


def test_temperature_is_the_one_that_scipy_finds_on_the_logits() -> None:
    logits, targets = one_label(1.8, num=300)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[np.arange(300), targets].mean())

    right = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8})
    found = fit_temperature(written(softmax(logits, axis=1)), targets, "multiclass")
    assert found == pytest.approx(right.x, rel=1e-5)
    calibrated = at_temperature(written(softmax(logits, axis=1)), found, "multiclass")
    assert calibrated == pytest.approx(softmax(logits / right.x, axis=1), abs=1e-6)
    assert log_loss(calibrated, targets, "multiclass") == pytest.approx(right.fun, abs=1e-7)


def test_temperature_of_several_labels_is_the_one_that_scipy_finds_on_the_logits() -> None:
    logits, targets = several_labels(1.8, num=300)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, np.where(targets, -logits, logits) / temperature).mean())

    right = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8})
    found = fit_temperature(written(expit(logits)), targets, "multilabel")
    assert found == pytest.approx(right.x, rel=1e-4)
    calibrated = at_temperature(written(expit(logits)), found, "multilabel")
    assert log_loss(calibrated, targets, "multilabel") == pytest.approx(right.fun, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 2.7])
def test_order_of_the_classes_stays(temperature: float) -> None:
    chances = written(softmax(one_label(1.5, num=500)[0], axis=1))
    calibrated = at_temperature(chances, temperature, "multiclass")
    assert (calibrated.argsort(axis=1) == chances.argsort(axis=1)).all()
    assert calibrated.sum(axis=1) == pytest.approx(1.0)
    assert at_temperature(chances, 1.0, "multiclass") is chances
    back = at_temperature(calibrated, 1 / temperature, "multiclass")
    assert back == pytest.approx(chances, abs=1e-7)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_zeros_and_ones_are_no_end(task: str) -> None:
    several = task == "multilabel"
    chances = np.array([[1.0, 0.0], [0.0, 1.0]] * 10 + [[0.3, 0.7], [1.0, 0.0]])
    classes = np.array([0, 1] * 10 + [1, 1])  # the last one is wrong, and sure
    targets = np.eye(2, dtype=bool)[classes] if several else classes
    temperature = fit_temperature(chances, targets, task)
    assert temperature > 5
    before = log_loss(chances, targets, task)
    assert log_loss(at_temperature(chances, temperature, task), targets, task) < before
    for values in (chances, at_temperature(chances, temperature, task)):
        assert np.isfinite(values).all() and ((values >= 0) & (values <= 1)).all()
        assert np.isfinite(log_loss(values, targets, task))


@pytest.mark.parametrize(
    ("chances", "targets", "words"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], "is right"),
        ([[0.9, 0.1], [0.2, 0.8]], [1, 0], "by chance"),
        ([[0.5, 0.5], [0.5, 0.5]], [1, 0], "by chance"),
        ([[1.0], [1.0]], [0, 0], "by chance"),
    ],
)
def test_temperature_stays_one_when_the_images_do_not_settle_it(
    chances: Any, targets: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(np.array(chances), np.array(targets), "multiclass") == 1.0
    assert words in caplog.text


def test_log_loss_is_that_of_scikit_learn() -> None:
    logits, targets = one_label(1.3, num=400)
    chances = softmax(logits, axis=1)
    assert log_loss(chances, targets, "multiclass") == pytest.approx(
        metrics.log_loss(targets, chances, labels=range(4))
    )
    several, truth = several_labels(1.3, num=400)
    assert log_loss(expit(several), truth, "multilabel") == pytest.approx(
        metrics.log_loss(truth.ravel(), expit(several).ravel())
    )


def every_cut(chances: Any, score: Any) -> float:
    """The best score that any threshold brings."""
    values = np.unique(chances)
    cuts = [*values, 1.0 + 1e-9]
    return float(max(score(chances >= cut) for cut in cuts))


@pytest.mark.parametrize("metric", TUNABLE_METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_threshold_of_a_label_is_the_best_of_all_cuts(metric: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    chances = random.random((60, 2)).round(2)  # some twice
    truth = random.random((60, 2)) < chances ** (1 + seed)
    tuned = tune_thresholds(chances, truth, metric)
    scores = []
    for index in range(2):
        has, column = truth[:, index], chances[:, index]
        score = SKLEARN[metric]
        best = every_cut(column, lambda decided, has=has, score=score: score(has, decided))
        scores.append(score(has, column >= np.float32(tuned.values[index])))
        assert scores[-1] == pytest.approx(best)
        assert 0 < tuned.values[index] < 1
    assert tuned.after == pytest.approx(np.mean(scores))
    before = [SKLEARN[metric](truth[:, i], chances[:, i] >= 0.5) for i in range(2)]
    assert tuned.before == pytest.approx(np.mean(before))
    assert tuned.unsettled == []
    counts = truth.sum(axis=0)
    assert tuned.rarest == [min(count, 60 - count) for count in counts]


@pytest.mark.parametrize("metric", TUNABLE_METRICS)
@pytest.mark.parametrize("positive", [0, 1])
def test_threshold_of_two_classes_is_the_best_of_all_cuts(metric: str, positive: int) -> None:
    random = np.random.default_rng(5)
    share = random.random(80)
    targets = (random.random(80) < share**3).astype(int)
    chances = np.stack((1 - share, share), axis=1)
    tuned = tune_thresholds(chances, targets, metric, positive=positive)

    def score(decided: Any) -> float:
        predicted = np.where(decided, positive, 1 - positive)
        more = {"average": "macro"} if metric == "f1_score" else {}
        return float(SKLEARN[metric](targets, predicted, **more))

    assert tuned.after == pytest.approx(every_cut(chances[:, positive], score))
    assert score(chances[:, positive] >= tuned.values[0]) == pytest.approx(tuned.after)
    assert tuned.before == pytest.approx(score(chances[:, positive] >= 0.5))
    assert len(tuned.values) == 1
    assert tuned.after is not None and tuned.before is not None and tuned.after > tuned.before


def test_threshold_is_kept_when_no_other_is_better() -> None:
    chances = np.array([[0.1], [0.2], [0.45], [0.9]])
    truth = np.array([[False], [False], [True], [True]])
    for default in (0.3, 0.25, 0.21):
        tuned = tune_thresholds(chances, truth, "f1_score", defaults=[default])
        assert tuned.values == [default]
    moved = tune_thresholds(chances, truth, "f1_score", defaults=[0.6])
    assert moved.values == [pytest.approx(0.325)]
    assert [moved.before, moved.after] == pytest.approx([2 / 3, 1.0])


def test_threshold_of_a_class_on_all_images_or_none_is_kept() -> None:
    chances = np.array([[0.1, 0.6, 0.7], [0.3, 0.2, 0.8]])
    truth = np.array([[False, True, True], [True, True, False]])
    tuned = tune_thresholds(chances, truth, "balanced_accuracy", defaults=[0.5, 0.4, 0.5])
    assert tuned.values == [pytest.approx(0.2), 0.4, 0.5]
    assert tuned.unsettled == [1]
    alone = tune_thresholds(chances[:, :2], np.zeros(2, dtype=int), "accuracy", positive=1)
    assert (alone.values, alone.unsettled, alone.before, alone.after) == ([0.5], [0], None, None)


def test_threshold_lies_between_probabilities_that_are_certain() -> None:
    chances = np.array([[0.0], [0.0], [1.0], [1.0]])
    truth = np.array([[False], [True], [True], [True]])
    (value,) = tune_thresholds(chances, truth, "f1_score").values
    assert value == 0.5
