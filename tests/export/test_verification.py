"""Two answers to the same images: what counts as the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from classifier.export.answering import BATCH_SIZES, Answered
from classifier.export.verification import compare, margins
from classifier.inference.description import Description
from classifier.model.answers import Answers, Calibration
from classifier.preprocessing import Preprocessing

DESCRIPTION = Description("onnx", ["a", "b", "c"], "multiclass", Preprocessing())
ROWS = [[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]]


def answered(rows: Any, labels: Any = (["a"], ["b"]), /, **of_size: Any) -> Answered:
    """The same at every batch size, but for what `of_size` says of the last."""
    last = BATCH_SIZES[-1]
    probabilities = {size: np.array(rows, float) for size in BATCH_SIZES}
    named = {size: list(labels) for size in BATCH_SIZES}
    probabilities[last] = np.array(of_size.get("rows", rows), float)
    named[last] = list(of_size.get("labels", labels))
    return Answered(probabilities, named, 0.1, "numpy", "2")


def test_equal_answers_differ_in_nothing() -> None:
    found = compare(answered(ROWS), answered(ROWS), DESCRIPTION, 1e-4)
    assert (found.max_difference, found.num_wrong, found.num_undecided) == (0.0, 0, 0)


def test_largest_difference_is_found_at_every_batch_size() -> None:
    other = answered(ROWS, rows=[[0.7, 0.2, 0.1], [0.1, 0.53, 0.37]])
    found = compare(answered(ROWS), other, DESCRIPTION, 1e-4)
    assert found.max_difference == pytest.approx(0.03) and found.worst == 1
    assert found.mean_difference == pytest.approx(0.06 / 12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    other = answered([[0.7, 0.2, 0.1], [0.1, value, 0.4]])
    found = compare(answered(ROWS), other, DESCRIPTION, 1e-4)
    assert found.max_difference == np.inf and found.worst == 1


@pytest.mark.parametrize(("precision", "wrong", "undecided"), [("fp32", 1, 0), ("int8", 0, 1)])
def test_label_between_equals_may_differ_in_lower_precision(
    precision: str, wrong: int, undecided: int
) -> None:
    near = [[0.7, 0.2, 0.1], [0.1, 0.46, 0.44]]
    other = answered(near, (["a"], ["c"]))
    description = replace(DESCRIPTION, precision=precision)
    found = compare(answered(near), other, description, 0.1)
    assert (found.num_wrong, found.num_undecided) == (wrong, undecided)


def test_other_label_of_a_sure_image_is_wrong_in_every_precision() -> None:
    other = answered(ROWS, (["b"], ["b"]))
    found = compare(answered(ROWS), other, replace(DESCRIPTION, precision="int8"), 0.1)
    assert (found.num_wrong, found.num_undecided, found.worst) == (1, 0, 0)


def test_labels_count_as_sets() -> None:
    one, two = answered(ROWS, (["a", "b"], [])), answered(ROWS, (["b", "a"], []))
    several = replace(
        DESCRIPTION, task="multilabel", thresholds=[0.5] * len(DESCRIPTION.class_names)
    )
    assert compare(one, two, several, 1e-4).num_wrong == 0


@pytest.mark.parametrize(
    ("task", "thresholds", "positive", "num_classes"),
    [
        ("multiclass", None, None, 3),
        ("multiclass", [0.3], 1, 2),
        ("multilabel", [0.2, 0.5, 0.9], None, 3),
    ],
)
def test_margin_is_what_keeps_a_decision(
    task: str, thresholds: Any, positive: Any, num_classes: int
) -> None:
    """No smaller change gives another decision of the model, and some larger one does."""
    model = Answers()
    model.task = task
    model._own_thresholds = [0.5] * num_classes if task == "multilabel" else None
    model.calibration = Calibration(1.0, thresholds, positive)
    names = ["a", "b", "c"][:num_classes]
    description = Description("onnx", names, task, Preprocessing(), thresholds=thresholds,
                              positive=positive)  # fmt: skip
    rows = np.random.default_rng(0).dirichlet([1.0] * num_classes, 20)
    for row, margin in zip(rows, margins(rows, description), strict=True):
        decided = model.decisions(torch.tensor(row[None]))
        changes = [
            (index, sign * step * margin)
            for index in range(num_classes) for sign in (1, -1) for step in (0.99, 1.01)
        ]  # fmt: skip
        kept: dict[bool, list[bool]] = {}
        for index, change in changes:
            moved = row.copy()
            moved[index] += change
            same = bool((model.decisions(torch.tensor(moved[None])) == decided).all())
            kept.setdefault(abs(change) < margin, []).append(same)
        assert all(kept[True]) and not all(kept[False])
