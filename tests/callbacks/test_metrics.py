from __future__ import annotations

from typing import Any

import pytest

from classifier import MetricsLogger
from classifier.errors import ConfigError


def names(*metrics: Any) -> list[str]:
    return list(MetricsLogger(list(metrics) or None).names("validation"))


def test_default_metrics_are_those_of_the_contract() -> None:
    assert names() == [
        "validation_accuracy", "validation_f1_score", "validation_precision", "validation_recall",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("F1Score", "f1_score"),
        ("torchmetrics.F1Score", "f1_score"),
        ("torchmetrics.classification.MulticlassF1Score", "f1_score"),
        ({"class_path": "torchmetrics.F1Score", "init_args": {"average": "macro"}}, "f1_score"),
        ({"class_path": "torchmetrics.F1Score", "init_args": {"average": "weighted"}}, "f1_score_weighted"),
        ({"class_path": "torchmetrics.Accuracy", "init_args": {"task": "multiclass"}}, "accuracy"),
        ({"class_path": "torchmetrics.Accuracy", "init_args": {"average": "macro"}}, "accuracy_macro"),
        ({"class_path": "torchmetrics.Accuracy", "init_args": {"top_k": 2}}, "accuracy_top2"),
        ("torchmetrics.AUROC", "auroc"),
        ("torchmetrics.CohenKappa", "cohen_kappa"),
        ("MatthewsCorrCoef", "matthews_corr_coef"),
    ],
)  # fmt: skip
def test_name_says_what_is_measured(spec: Any, name: str) -> None:
    assert names(spec) == [f"validation_{name}"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("F1Scor", "metrics.0.class_path: torchmetrics has no such metric, got 'F1Scor'."),
        ("torchmetrics.F1Scor", "metrics.0.class_path: torchmetrics has no 'F1Scor'"),
        ("torch.nn.Linear", "metrics.0.class_path: is no torchmetrics.Metric"),
        ({"class_path": "F1Score", "init_args": {"avrage": 1}},
         "metrics.0.init_args.avrage: F1Score takes no 'avrage'."),
        ({"class": "F1Score"}, "metrics.0.class: unknown key."),
        ({"class_path": "F1Score", "init_args": {"task": "binary"}},
         "metrics.0.init_args.task: must be multiclass or multilabel, got 'binary'."),
    ],
)  # fmt: skip
def test_wrong_metric_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MetricsLogger([spec])
    assert str(caught.value).startswith(message)


def test_same_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the second metric that is called f1_score"):
        MetricsLogger(["F1Score", "torchmetrics.F1Score"])


def test_direction_comes_from_torchmetrics() -> None:
    directions = MetricsLogger(["F1Score", "torchmetrics.CalibrationError"]).names("test")
    assert directions == {"test_f1_score": True, "test_calibration_error": False}


def test_top_k_is_refused_when_it_exceeds_the_classes() -> None:
    logger = MetricsLogger(["Accuracy", {"class_path": "Accuracy", "init_args": {"top_k": 5}}])
    logger.check("multiclass", 5)
    with pytest.raises(ConfigError) as caught:
        logger.check("multiclass", 4)
    assert str(caught.value) == (
        "metrics.1.init_args.top_k: the data has 4 classes, got 5. Write at most 4."
    )
