"""Metrics of several labels per image agree with scikit-learn, with a threshold per class."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    jaccard_score,
    label_ranking_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from classifier import ImageClassifier, MetricsLogger
from classifier.errors import ConfigError
from tests.scenes import Scenes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:No positive samples"),  # of a class in a few batches
]
THRESHOLDS = [0.4, 0.55, 0.35]
METRICS: list[Any] = [
    "Accuracy", "F1Score", "Precision", "Recall", "ExactMatch", "HammingDistance", "JaccardIndex",
    {"class_path": "F1Score", "init_args": {"average": "micro"}},
    {"class_path": "F1Score", "init_args": {"threshold": 0.45}},
    "torchmetrics.AUROC", "AveragePrecision", "MultilabelRankingLoss",
]  # fmt: skip


class Collected(Callback):
    """What the model answered in the test."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.logits.append(outputs["logits"])
        self.targets.append(batch.targets)


def expected(truth: Any, chances: Any, thresholds: Any) -> dict[str, float]:
    guess = (chances >= np.array(thresholds, dtype=np.float32)).astype(int)
    lower = (chances > 0.45).astype(int)
    return {
        "accuracy": (guess == truth).mean(),
        "f1_score": f1_score(truth, guess, average="macro", zero_division=0),
        "precision": precision_score(truth, guess, average="macro", zero_division=0),
        "recall": recall_score(truth, guess, average="macro", zero_division=0),
        "exact_match": accuracy_score(truth, guess),
        "hamming_distance": hamming_loss(truth, guess),
        "jaccard_index": jaccard_score(truth, guess, average="macro", zero_division=0),
        "f1_score_micro": f1_score(truth, guess, average="micro", zero_division=0),
        "f1_score_at0_45": f1_score(truth, lower, average="macro", zero_division=0),
        "auroc": roc_auc_score(truth, chances, average="macro"),
        "average_precision": average_precision_score(truth, chances, average="macro"),
        "ranking_loss": label_ranking_loss(truth, chances),
    }


def test_metrics_equal_scikit_learn_with_a_threshold_per_class() -> None:
    L.seed_everything(1, verbose=False)
    model = ImageClassifier(
        "timm/test_resnet", pretrained=False, thresholds=THRESHOLDS,
        optimizer_config={"name": "AdamW", "lr": 1e-3},
    )  # fmt: skip
    answers = Collected()
    run = trainer(callbacks=[MetricsLogger(METRICS), answers])
    data = Scenes(num_images=80)
    run.fit(model, datamodule=data)
    (metrics,) = run.test(model, datamodule=data, verbose=False)
    truth = torch.cat(answers.targets).int().numpy()
    chances = torch.cat(answers.logits).sigmoid().numpy()
    right = {f"test_{name}": value for name, value in expected(truth, chances, THRESHOLDS).items()}
    assert {name: metrics[name] for name in right} == pytest.approx(right, abs=1e-5)
    # Thresholds that made no difference would prove nothing.
    alike = expected(truth, chances, [0.5] * 3)
    assert right["test_f1_score"] != pytest.approx(alike["f1_score"], abs=1e-3)
    assert right["test_f1_score"] != pytest.approx(right["test_f1_score_at0_45"], abs=1e-3)
    assert set(right) == set(MetricsLogger(METRICS).names("test"))


class Fixed(L.LightningModule):
    """A model that always gives the same logits for several labels."""

    task = "multilabel"

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.fixed = logits
        self.class_names = [str(index) for index in range(logits.shape[1])]

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()

    def decisions(self, chances: torch.Tensor) -> torch.Tensor:
        return chances >= 0.5

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return {"logits": self.fixed, "targets": batch}


def logged(logits: Any, targets: Any, metrics: list[Any] | None = None) -> dict[str, Any]:
    model = Fixed(torch.tensor(logits))
    loader: Any = torch.utils.data.DataLoader(torch.tensor(targets), batch_size=len(targets))  # type: ignore[arg-type]
    run = trainer(callbacks=[MetricsLogger(metrics)])
    return dict(run.test(model, dataloaders=loader, verbose=False)[0])


def test_class_that_no_image_has_counts_as_zero() -> None:
    metrics = logged([[2.0, -2.0], [1.0, -2.0]], [[1.0, 0.0], [1.0, 0.0]])
    assert metrics == {
        "test_accuracy": 1.0, "test_f1_score": 0.5, "test_precision": 0.5, "test_recall": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["AUROC", "AveragePrecision", "MatthewsCorrCoef"])
def test_class_that_no_image_has_ends_no_run(name: str) -> None:
    (value,) = logged([[2.0, -2.0], [-1.0, -2.0]], [[1.0, 0.0], [0.0, 0.0]], [name]).values()
    assert 0.0 <= value <= 1.0


def test_single_class_has_its_metrics() -> None:
    metrics = logged(
        [[2.0], [1.0], [-1.0], [-2.0]], [[1.0], [0.0], [1.0], [0.0]], ["F1Score", "AUROC"]
    )
    assert metrics == {"test_f1_score": 0.5, "test_auroc": 0.75}


def test_bound_that_is_none_cuts_nothing() -> None:
    """torchmetrics calls 1 the upper bound of the coverage error, which goes up to the classes."""
    metrics = logged([[2.0, 1.0, -1.0]], [[0.0, 0.0, 1.0]], ["MultilabelCoverageError"])
    assert metrics == {"test_coverage_error": 3.0}


def test_half_an_epoch_is_counted_on_from_a_checkpoint() -> None:
    """Two loggers, one of which takes over from the other, equal one that saw everything."""
    random = torch.Generator().manual_seed(3)
    parts = [
        {"logits": torch.randn(9, 3, generator=random), "targets": torch.rand(9, 3, generator=random).round()}
        for _ in range(2)
    ]  # fmt: skip
    model = Fixed(torch.zeros(1, 3))
    loggers = [MetricsLogger(["F1Score", "AUROC"]) for _ in range(3)]
    run = trainer()
    for logger in loggers:
        logger.on_train_start(run, model)
    first, second, whole = loggers
    first.on_train_batch_end(run, model, parts[0], None, 0)
    second.load_state_dict(first.state_dict())
    second.on_train_start(run, model)
    second.on_train_batch_end(run, model, parts[1], None, 1)
    for number, part in enumerate(parts):
        whole.on_train_batch_end(run, model, part, None, number)
    states = [logger.state_dict()["train"] for logger in (second, whole)]
    assert set(states[0]) == {"train_f1_score", "train_auroc"}
    for name, state in states[0].items():
        for key, value in state.items():
            theirs = states[1][name][key]
            assert torch.equal(torch.as_tensor(_flat(value)), torch.as_tensor(_flat(theirs)))


def _flat(value: Any) -> Any:
    return torch.cat(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("spec", "task", "message"),
    [
        ("CohenKappa", "multilabel",
         "metrics.0: torchmetrics has no CohenKappa for several labels per image. Choose another metric."),
        ("torchmetrics.classification.MultilabelF1Score", "multiclass",
         "metrics.0: MultilabelF1Score is for several labels per image, and the data is multiclass. "
         "Write F1Score, without a task."),
        ("MultilabelRankingLoss", "multiclass",
         "metrics.0: MultilabelRankingLoss is for several labels per image, and the data is multiclass. "
         "Choose another metric."),
        ("MulticlassF1Score", "multilabel",
         "metrics.0: MulticlassF1Score is for one label per image, and the data is multilabel. "
         "Write F1Score, without a task."),
        ({"class_path": "F1Score", "init_args": {"task": "multilabel"}}, "multiclass",
         "metrics.0: F1Score is for several labels per image, and the data is multiclass. "
         "Write F1Score, without a task."),
        ({"class_path": "F1Score", "init_args": {"top_k": 2}}, "multilabel",
         "metrics.0.init_args.top_k: F1Score takes no 'top_k' for several labels per image. "
         "See its documentation."),
        ({"class_path": "F1Score", "init_args": {"threshold": 0.3}}, "multiclass",
         "metrics.0.init_args.threshold: F1Score takes no 'threshold'. See its documentation."),
    ],
)  # fmt: skip
def test_metric_that_does_not_fit_the_task_is_told(spec: Any, task: str, message: str) -> None:
    logger = MetricsLogger([spec])
    with pytest.raises(ConfigError) as caught:
        logger.check(task)
    assert str(caught.value) == message
    logger.check("multilabel" if task == "multiclass" else "multiclass")


def test_metric_of_no_task_is_told_at_once() -> None:
    spec = {"class_path": "torchmetrics.AUROC", "init_args": {"average": "none"}}
    with pytest.raises(ConfigError, match=r"^metrics\.0: AUROC gives more than one number"):
        MetricsLogger([spec])
    with pytest.raises(
        ConfigError, match=r"^metrics\.0: MultilabelConfusionMatrix gives more than"
    ):
        MetricsLogger(["MultilabelConfusionMatrix"])


def test_names_are_the_same_in_both_tasks() -> None:
    for spec in ("F1Score", "MulticlassF1Score", "MultilabelF1Score"):
        assert MetricsLogger([spec]).names("validation") == {"validation_f1_score": True}
    assert MetricsLogger(["MultilabelCoverageError"]).names("test") == {
        "test_coverage_error": False
    }
