"""Logged metrics equal scikit-learn's on the saved predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)

from classifier import main
from tests.conftest import write_classes


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # eight digits
def test_metrics_equal_scikit_learn(config: Any, save: Any, workplace: Path) -> None:
    """Barely trained, on unevenly filled classes: the figures are far from 0 and 1."""
    for name, number in (("blue", 9), ("green", 4), ("red", 6)):
        write_classes(workplace / "uneven", number, [name], seed=300)
    config["data"]["init_args"]["dataset_classes"]["test"]["init_args"]["root"] = "uneven"
    weighted = {"class_path": "torchmetrics.F1Score", "init_args": {"average": "weighted"}}
    macro = {"class_path": "torchmetrics.Accuracy", "init_args": {"average": "macro"}}
    metrics = ["Accuracy", "F1Score", weighted, "Precision", "Recall", macro, "CohenKappa"]
    config["trainer"] |= {
        "max_epochs": 1, "limit_train_batches": 2,
        "callbacks": [{"class_path": "classifier.MetricsLogger", "init_args": {"metrics": metrics}}],
    }  # fmt: skip
    trained = main(["--config", save(config)])
    assert trained is not None
    tested = main(["--test", "--ckpt_path", trained.output_dir])
    assert tested is not None
    with Path(tested.output_dir, "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    truth = [int(row["target"]) for row in rows]
    guess = [int(row["index"]) for row in rows]
    probabilities = [
        [float(row[f"prob_{name}"]) for name in ("blue", "green", "red")] for row in rows
    ]
    expected = {
        "test_accuracy": accuracy_score(truth, guess),
        "test_f1_score": f1_score(truth, guess, average="macro"),
        "test_f1_score_weighted": f1_score(truth, guess, average="weighted"),
        "test_precision": precision_score(truth, guess, average="macro", zero_division=0),
        "test_recall": recall_score(truth, guess, average="macro"),
        "test_accuracy_macro": balanced_accuracy_score(truth, guess),
        "test_cohen_kappa": cohen_kappa_score(truth, guess),
        "test_loss": log_loss(truth, probabilities),
    }
    assert tested.metrics == pytest.approx(expected, abs=1e-5)
