from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics

from classifier import MetricsLogger
from classifier.errors import ConfigError
from tests.scenes import trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


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


class Decided(L.LightningModule):
    """A model of two classes that takes an image for the second from 0.8 on, or one of no words."""

    class_names: ClassVar[list[str]] = ["no", "yes"]

    def __init__(self, threshold: float | None) -> None:
        super().__init__()
        if threshold is not None:
            self.by_threshold = True
            self.threshold = threshold

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(dim=1)

    def decisions(self, chances: torch.Tensor) -> torch.Tensor:
        chosen = (chances[:, 1] >= self.threshold).long()
        return torch.nn.functional.one_hot(chosen, 2).bool()

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return {"logits": batch[:, :2], "targets": batch[:, 2].long()}


METRICS: list[Any] = [
    "Accuracy", "F1Score", "Precision", "Recall", "MatthewsCorrCoef", "CohenKappa", "JaccardIndex",
    {"class_path": "Accuracy", "init_args": {"top_k": 2}}, "AUROC", "AveragePrecision",
    "CalibrationError",
]  # fmt: skip


def binned_error(chances: Any, targets: Any) -> float:
    """The expected calibration error of the likeliest class, bin by bin."""
    sure, right, error = chances.max(axis=1), chances.argmax(axis=1) == targets, 0.0
    for low in np.arange(15) / 15:
        inside = (sure >= low) & (sure < low + 1 / 15)
        if inside.any():
            error += abs(right[inside].mean() - sure[inside].mean()) * inside.mean()
    return error


@pytest.mark.parametrize("threshold", [0.8, None])
def test_metrics_follow_the_decision_and_scores_stay_scores(threshold: float | None) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(50, 2)) * 2
    targets = (random.random(50) < 0.6).astype(int)
    batch = torch.tensor(np.column_stack((logits, targets)), dtype=torch.float32)
    run = trainer(callbacks=[MetricsLogger(METRICS)])
    loader: Any = torch.utils.data.DataLoader(batch, batch_size=20)  # type: ignore[arg-type]
    (found,) = run.test(Decided(threshold), dataloaders=loader, verbose=False)
    chances = softmax(logits, axis=1)[:, 1]
    decided = (chances >= (threshold or 0.5)).astype(int)
    assert found == pytest.approx(
        {
            "test_accuracy": metrics.accuracy_score(targets, decided),
            "test_f1_score": metrics.f1_score(targets, decided, average="macro"),
            "test_precision": metrics.precision_score(targets, decided, average="macro"),
            "test_recall": metrics.recall_score(targets, decided, average="macro"),
            "test_matthews_corr_coef": metrics.matthews_corrcoef(targets, decided),
            "test_cohen_kappa": metrics.cohen_kappa_score(targets, decided),
            "test_jaccard_index": metrics.jaccard_score(targets, decided, average="macro"),
            "test_accuracy_top2": 1.0,
            "test_auroc": metrics.roc_auc_score(targets, chances),
            "test_average_precision": np.mean(
                [
                    metrics.average_precision_score(targets, chances),
                    metrics.average_precision_score(1 - targets, 1 - chances),
                ]
            ),
            "test_calibration_error": binned_error(softmax(logits, axis=1), targets),
        },
        abs=1e-5,
    )
