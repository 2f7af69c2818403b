"""Evaluations by hand, of any number of classes, for tests of pictures and pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from classifier.evaluation.results import (
    MULTICLASS,
    MULTILABEL,
    ClassFigures,
    Curves,
    Estimate,
    Evaluation,
    Predictions,
)

EVIL = "<script>alert(1)</script>"
HOSTILE = (
    EVIL,
    "n" * 200,
    "$\\frac$ $x",
    "学习 \u202eabc",
    'a" onload="x',
    "tab\tnew\nline",
    "\udcff",
)
ANIMALS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def names_of(number: int) -> tuple[str, ...]:
    """Class names, plain ones."""
    return (
        ANIMALS[:number]
        if number <= len(ANIMALS)
        else tuple(f"class_{i:03}" for i in range(number))
    )


def make(
    class_names: Sequence[str],
    num_images: int = 500,
    *,
    absent: Sequence[int] = (),
    stage: str = "test",
    seed: int = 0,
    **changes: Any,
) -> Evaluation:
    """One label per image. Classes are confused with their neighbours, some more than others."""
    rng = np.random.default_rng(seed)
    number = len(class_names)
    present = np.array([i for i in range(number) if i not in absent])
    targets = rng.choice(present, num_images)
    strength = rng.uniform(1.5, 5.0, number)
    logits = rng.normal(0, 1.0, (num_images, number))
    logits[np.arange(num_images), targets] += strength[targets]
    logits[np.arange(num_images), (targets ^ 1) % number] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((number, number), dtype=np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    score, right = probabilities.max(axis=1), targets == predicted
    paths = [f"{class_names[t]}/img_{i:05}.jpg".replace("\n", "") for i, t in enumerate(targets)]
    positive = 1 if number == 2 else None
    curves = Curves(
        reliability=_reliability(score, right),
        coverage=_coverage(score, right),
        **_binary_curves(
            {class_names[1]: (probabilities[:, 1], targets == 1)} if number == 2 else {}
        ),
    )
    values: dict[str, Any] = {
        "stage": stage,
        "predictions": Predictions(
            tuple(class_names), MULTICLASS, paths, probabilities, targets, predicted,
            [("broken/one.jpg", "the file is empty")],
        ),
        "estimates": _estimates(float(right.mean()), num_images),
        "figures": {"cohen_kappa": 0.81, "log_loss": 0.334},
        "classes": _classes(class_names, confusion),
        "absent": [class_names[i] for i in absent],
        "confusion": confusion,
        "curves": curves,
        "losses": -np.log(probabilities[np.arange(num_images), targets]),
        "positive": positive,
    }  # fmt: skip
    return Evaluation(**{**values, **changes})


def make_several(class_names: Sequence[str], num_images: int = 500, seed: int = 0) -> Evaluation:
    """Any number of labels per image."""
    rng = np.random.default_rng(seed)
    number = len(class_names)
    targets = rng.random((num_images, number)) < rng.uniform(0.1, 0.5, number)
    logits = rng.normal(-1, 1, (num_images, number)) + targets * rng.uniform(0.5, 4.5, number)
    probabilities = 1 / (1 + np.exp(-logits))
    predicted = probabilities >= 0.5
    confusion = np.array([
        [[np.sum((targets[:, c] == t) & (predicted[:, c] == p)) for p in (0, 1)] for t in (0, 1)]
        for c in range(number)
    ])  # fmt: skip
    score, right = (
        np.maximum(probabilities, 1 - probabilities).ravel(),
        (targets == predicted).ravel(),
    )
    f1 = [2 * m[1, 1] / max(1, 2 * m[1, 1] + m[0, 1] + m[1, 0]) for m in confusion]
    losses = -np.where(targets, np.log(probabilities), np.log(1 - probabilities)).mean(axis=1)
    scores = {name: (probabilities[:, i], targets[:, i]) for i, name in enumerate(class_names)}
    return Evaluation(
        stage="validation",
        predictions=Predictions(
            tuple(class_names), MULTILABEL, [f"img_{i}.jpg" for i in range(num_images)],
            probabilities, targets, predicted,
        ),
        estimates=_estimates(float(np.mean(f1)), num_images),
        figures={"hamming_loss": float(1 - right.mean())},
        classes=[
            ClassFigures(
                name, int(m[1].sum()), int(m[:, 1].sum()), float(m[1, 1] / max(1, m[:, 1].sum())),
                float(m[1, 1] / max(1, m[1].sum())), float(f), 0.9, 0.8, 0.5,
            )
            for name, m, f in zip(class_names, confusion, f1, strict=True)
        ],
        absent=[],
        confusion=confusion,
        curves=Curves(_reliability(score, right), _coverage(score, right), **_binary_curves(scores)),
        losses=losses,
    )  # fmt: skip


def history(epochs: int = 12) -> list[dict[str, str]]:
    """Rows of a metrics.csv: a step between, then the end of an epoch."""
    rows = []
    for epoch in range(epochs):
        rows.append(
            {
                "epoch": str(epoch),
                "step": str(10 * epoch + 4),
                "train_loss_step": "1.0",
                "train_loss": "",
            }
        )
        rows.append({
            "epoch": str(epoch), "step": str(10 * epoch + 9), "train_loss_step": "",
            "train_loss": str(1.8 * 0.8**epoch), "train_accuracy": str(1 - 0.6 * 0.8**epoch),
            "validation_loss": str(0.5 + 1.4 * 0.7**epoch + 0.01 * epoch),
            "validation_accuracy": str(0.9 - 0.55 * 0.75**epoch),
        })  # fmt: skip
    return rows


def _estimates(value: float, number: int) -> dict[str, Estimate]:
    half = 1.96 * (value * (1 - value) / number) ** 0.5
    near = Estimate(value, max(0.0, value - half), min(1.0, value + half))
    names = ("accuracy", "f1_score", "balanced_accuracy", "precision", "recall", "auroc")
    return dict.fromkeys(names, near)


def _classes(class_names: Sequence[str], confusion: Any) -> list[ClassFigures]:
    made = []
    for index, name in enumerate(class_names):
        support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        hits = float(confusion[index, index])
        made.append(
            ClassFigures(
                name, support, predicted, hits / predicted if predicted else 0.0,
                hits / support if support else None,
                2 * hits / (support + predicted) if support else None,
                0.97 if support else None, 0.91 if support else None,
            )
        )  # fmt: skip
    return made


def _reliability(score: Any, right: Any) -> dict[str, list[Any]]:
    edges = np.linspace(0, 1, 16)
    place = np.clip(np.digitize(score, edges) - 1, 0, 14)
    filled = [b for b in range(15) if (place == b).any()]
    return {
        "confidence_low": [float(edges[b]) for b in filled],
        "confidence_high": [float(edges[b + 1]) for b in filled],
        "num_images": [int((place == b).sum()) for b in filled],
        "confidence": [float(score[place == b].mean()) for b in filled],
        "accuracy": [float(right[place == b].mean()) for b in filled],
    }


def _coverage(score: Any, right: Any) -> dict[str, list[Any]]:
    order = np.argsort(-score, kind="stable")
    share = np.arange(1, len(score) + 1) / len(score)
    accuracy = np.cumsum(right[order]) / np.arange(1, len(score) + 1)
    return {
        "threshold": score[order].tolist(), "coverage": share.tolist(),
        "accuracy": accuracy.tolist(),
    }  # fmt: skip


def _binary_curves(scores: dict[str, tuple[Any, Any]]) -> dict[str, dict[str, list[Any]]]:
    roc: dict[str, list[Any]] = {
        key: [] for key in ("class", "threshold", "false_positive_rate", "true_positive_rate")
    }
    pr: dict[str, list[Any]] = {key: [] for key in ("class", "threshold", "recall", "precision")}
    for name, (score, truth) in scores.items():
        order = np.argsort(-score, kind="stable")
        hits, misses = np.cumsum(truth[order]), np.cumsum(~truth[order])
        roc["class"] += [name] * (len(score) + 1)
        roc["threshold"] += [float("inf"), *score[order].tolist()]
        roc["true_positive_rate"] += [0.0, *(hits / max(1, hits[-1])).tolist()]
        roc["false_positive_rate"] += [0.0, *(misses / max(1, misses[-1])).tolist()]
        pr["class"] += [name] * len(score)
        pr["threshold"] += score[order].tolist()
        pr["recall"] += (hits / max(1, hits[-1])).tolist()
        pr["precision"] += (hits / (hits + misses)).tolist()
    return {"roc": roc, "precision_recall": pr}
