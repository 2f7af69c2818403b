"""Every figure against scikit-learn, on predictions that a file could hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from classifier.errors import ConfigError, RunError
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.results import Evaluation, Predictions

AVERAGES = ("precision", "recall", "f1_score")


def predictions(num: int, num_classes: int, seed: int = 0, absent: int = 0) -> Predictions:
    """Right more often than not; the last `absent` classes have no images."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_classes - absent, size=num)
    logits = rng.normal(size=(num, num_classes)) + 1.5 * np.eye(num_classes)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        class_names=tuple(f"class {index}" for index in range(num_classes)),
        task="multiclass",
        paths=[f"{index}.jpg" for index in range(num)],
        probabilities=scores.round(8),
        targets=targets,
        predicted=scores.argmax(axis=1),
    )


def labels(num: int, num_classes: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.random((num, num_classes)) < np.linspace(0.5, 0.1, num_classes)
    scores = 1 / (1 + np.exp(-(rng.normal(size=targets.shape) + 2 * targets - 1)))
    return Predictions(
        class_names=tuple(f"class {index}" for index in range(num_classes)),
        task="multilabel",
        paths=[f"{index}.jpg" for index in range(num)],
        probabilities=scores.round(8),
        targets=targets,
        predicted=scores >= 0.5,
    )


def sklearn_averages(truth: Any, decided: Any, present: list[int]) -> dict[str, float]:
    functions = (sk.precision_score, sk.recall_score, sk.f1_score)
    found = {}
    for name, function in zip(AVERAGES, functions, strict=True):
        for average in ("macro", "micro", "weighted"):
            chosen = None if average == "micro" else present
            value = function(truth, decided, labels=chosen, average=average, zero_division=0)
            found[name if average == "macro" else f"{name}_{average}"] = value
    return found


def all_figures(evaluation: Evaluation) -> dict[str, float]:
    estimates = {name: estimate.value for name, estimate in evaluation.estimates.items()}
    return estimates | evaluation.figures


def expected_calibration_error(confidence: Any, right: Any) -> float:
    """Straight from the definition."""
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.mark.parametrize("num_classes, absent", [(2, 0), (3, 0), (10, 0), (10, 2), (40, 1)])
def test_figures_are_those_of_sklearn(num_classes: int, absent: int) -> None:
    given = predictions(300, num_classes, seed=num_classes, absent=absent)
    truth, decided, scores = given.targets, given.predicted, given.probabilities
    scores = scores / scores.sum(axis=1, keepdims=True)  # 8 digits add up to almost 1
    classes = list(range(num_classes))
    present = sorted(set(truth.tolist()))
    expected = sklearn_averages(truth, decided, present) | {
        "accuracy": sk.accuracy_score(truth, decided),
        "balanced_accuracy": sk.recall_score(truth, decided, labels=present, average="macro"),
        "cohen_kappa": sk.cohen_kappa_score(truth, decided),
        "matthews_corr_coef": sk.matthews_corrcoef(truth, decided),
        "log_loss": sk.log_loss(truth, scores, labels=classes),
        "brier_score": sk.brier_score_loss(truth, scores, labels=classes),
        "calibration_error": expected_calibration_error(
            scores.max(axis=1), scores.argmax(axis=1) == truth
        ),
    }
    if num_classes > 5:
        expected["accuracy_top5"] = sk.top_k_accuracy_score(truth, scores, k=5, labels=classes)
    if num_classes == 2:
        expected["auroc"] = sk.roc_auc_score(truth, scores[:, 1])
        expected["average_precision"] = sk.average_precision_score(truth, scores[:, 1])
    evaluation = evaluate(given, "test")
    assert all_figures(evaluation) == pytest.approx(expected, abs=1e-6)
    assert evaluation.absent == [f"class {index}" for index in classes if index not in present]
    np.testing.assert_array_equal(
        evaluation.confusion, sk.confusion_matrix(truth, decided, labels=classes)
    )
    for index, figures in enumerate(evaluation.classes):
        assert figures.support == (truth == index).sum()
        assert figures.predicted == (decided == index).sum()
        if figures.support:
            assert figures.f1_score == pytest.approx(
                sk.f1_score(truth == index, decided == index), abs=1e-6
            )
        else:
            assert figures.recall is None and figures.f1_score is None


@pytest.mark.parametrize("num_classes", [1, 4])
def test_figures_of_several_labels_are_those_of_sklearn(num_classes: int) -> None:
    given = labels(300, num_classes)
    truth, decided, scores = given.targets, given.predicted, given.probabilities
    entropies = [sk.log_loss(truth[:, i], scores[:, i]) for i in range(num_classes)]
    expected = sklearn_averages(
        truth if num_classes > 1 else truth[:, 0], decided if num_classes > 1 else decided[:, 0],
        [1] if num_classes == 1 else list(range(num_classes)),
    ) if num_classes > 1 else {}  # fmt: skip
    expected |= {
        "average_precision": np.mean(
            [sk.average_precision_score(truth[:, i], scores[:, i]) for i in range(num_classes)]
        ),
        "auroc": np.mean([sk.roc_auc_score(truth[:, i], scores[:, i]) for i in range(num_classes)]),
        "exact_match": sk.accuracy_score(truth, decided),
        "accuracy": 1 - sk.hamming_loss(truth, decided),
        "log_loss": np.mean(entropies),
        "brier_score": np.mean((scores - truth) ** 2),
        "calibration_error": expected_calibration_error(scores.ravel(), truth.ravel()),
    }
    evaluation = evaluate(given, "validation")
    found = all_figures(evaluation)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(
        evaluation.confusion, sk.multilabel_confusion_matrix(truth, decided)
        if num_classes > 1 else sk.confusion_matrix(truth[:, 0], decided[:, 0])[None],
    )  # fmt: skip


def test_positive_class_is_the_one_that_is_named() -> None:
    given = predictions(200, 2)
    first = evaluate(given, "test", positive_class="class 0")
    truth, scores = given.targets == 0, given.probabilities[:, 0]
    assert first.positive == 0
    assert first.estimates["average_precision"].value == pytest.approx(
        sk.average_precision_score(truth, scores)
    )
    false, true, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(first.curves.roc["false_positive_rate"], false)
    np.testing.assert_allclose(first.curves.roc["true_positive_rate"], true)
    with pytest.raises(ConfigError, match=r"evaluation\.positive_class.*Did you mean 'class 0'"):
        evaluate(given, "test", positive_class="clas 0")


def test_single_class_is_always_right() -> None:
    one = Predictions(
        ("a",), "multiclass", ["1", "2"], np.ones((2, 1)), np.zeros(2, int), np.zeros(2, int)
    )
    evaluation = evaluate(one, "test")
    assert evaluation.estimates["accuracy"].value == 1.0
    assert evaluation.estimates["f1_score"].value == 1.0
    assert evaluation.estimates["log_loss"].value == 0.0


def test_losses_are_those_of_each_image() -> None:
    given = predictions(50, 3)
    evaluation = evaluate(given, "test")
    for row in range(50):
        own = -np.log(given.probabilities[row, given.targets[row]])
        assert evaluation.losses[row] == pytest.approx(own)


def test_wrong_and_certain_predictions_have_a_finite_loss() -> None:
    given = Predictions(
        ("a", "b"), "multiclass", ["1", "2"], np.array([[1.0, 0.0], [1.0, 0.0]]),
        np.array([0, 1]), np.array([0, 0]),
    )  # fmt: skip
    evaluation = evaluate(given, "test")
    assert np.isfinite(evaluation.losses).all() and evaluation.losses[1] > 30


def test_single_class_in_the_truth_leaves_out_what_is_not_defined() -> None:
    given = predictions(30, 2)
    chosen = given.targets == 1
    part = Predictions(
        given.class_names, given.task, [p for p, keep in zip(given.paths, chosen, strict=True) if keep],
        given.probabilities[chosen], given.targets[chosen], given.predicted[chosen],
    )  # fmt: skip
    evaluation = evaluate(part, "test")
    assert evaluation.absent == ["class 0"]
    assert "auroc" not in evaluation.estimates
    assert evaluation.classes[1].auroc is None
    assert evaluation.estimates["f1_score"].value == evaluation.classes[1].f1_score


def test_nothing_to_judge_is_told() -> None:
    empty = predictions(3, 2)
    nothing = Predictions(
        empty.class_names, empty.task, [], empty.probabilities[:0], empty.targets[:0],
        empty.predicted[:0], [("a.jpg", "broken")],
    )  # fmt: skip
    with pytest.raises(RunError, match="no image of the test set could be decoded"):
        evaluate(nothing, "test")


def test_probabilities_that_are_no_numbers_are_told() -> None:
    given = predictions(10, 3)
    given.probabilities[4] = np.nan
    with pytest.raises(RunError, match=r"of 1 of 10 test images are not numbers"):
        evaluate(given, "test")


def test_thresholds_stand_beside_their_classes() -> None:
    found = evaluate(labels(40, 3), "test", thresholds=[0.2, 0.5, 0.7]).classes
    assert [figures.threshold for figures in found] == [0.2, 0.5, 0.7]


def test_coverage_is_the_accuracy_of_those_that_are_decided() -> None:
    given = predictions(200, 3)
    curve = evaluate(given, "test").curves.coverage
    assert curve["coverage"][-1] == 1.0
    assert curve["accuracy"][-1] == pytest.approx(given.correct.mean())
    middle = len(curve["threshold"]) // 2
    decided = given.probabilities.max(axis=1) >= curve["threshold"][middle]
    assert curve["coverage"][middle] == pytest.approx(decided.mean())
    assert curve["accuracy"][middle] == pytest.approx(given.correct[decided].mean())
