from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model.per_class import (
    balanced_weights,
    resolve_thresholds,
    resolve_weights,
    shown_weights,
)

NAMES = ["cat", "dog", "fox"]
THRESHOLDS = "model.init_args.thresholds"
WEIGHTS = "model.init_args.class_weights"


def model(**arguments: Any) -> ImageClassifier:
    return ImageClassifier("timm/test_resnet", pretrained=False, **arguments)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [0.5, 0.5, 0.5]),
        (0.25, [0.25, 0.25, 0.25]),
        ({"dog": 0.9}, [0.5, 0.9, 0.5]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
    ],
)
def test_thresholds_come_in_four_forms(given: Any, expected: list[float]) -> None:
    assert resolve_thresholds(given, "multilabel", NAMES) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0, f"{THRESHOLDS}: must be in (0, 1), got 0.0. Write for example 0.5."),
        ({"dog": 1.0}, f"{THRESHOLDS}.dog: must be in (0, 1), got 1.0. Write for example 0.5."),
        ([0.5, float("nan"), 0.5], f"{THRESHOLDS}.1: must be in (0, 1), got nan. Write for example 0.5."),
        ({"foxx": 0.5}, f"{THRESHOLDS}.foxx: there is no such class. The classes are cat, dog, fox. Did you mean 'fox'?"),
        ([0.5], f"{THRESHOLDS}: has 1 numbers, and there are 3 classes (cat, dog, fox), got [0.5]. "
         "Write one number for each class in this order."),
    ],
)  # fmt: skip
def test_wrong_thresholds_are_told(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(thresholds=given).build(NAMES, task="multilabel")
    assert str(caught.value) == message


NO_EFFECT = (
    f"{THRESHOLDS}: has no effect: with one label per image the likeliest class wins, got 0.3. "
    "Write null, or task: multilabel."
)


def test_thresholds_without_effect_are_told() -> None:
    with pytest.raises(ConfigError) as at_once:
        model(thresholds=0.3, task="multiclass")
    with pytest.raises(ConfigError) as with_the_data:
        model(thresholds=0.3).build(NAMES, task="multiclass")
    assert str(at_once.value) == str(with_the_data.value) == NO_EFFECT


def test_auto_weights_are_those_of_scikit_learn_scaled_to_mean_one() -> None:
    targets = np.repeat([0, 1, 2], [50, 10, 3])
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=targets)
    ours = balanced_weights([50, 10, 3])
    assert ours.dtype == torch.float32
    assert ours.mean().item() == pytest.approx(1.0)
    np.testing.assert_allclose(ours.numpy(), theirs / theirs.mean(), rtol=1e-6)


def test_class_without_images_weighs_one_and_leaves_the_others_alone() -> None:
    assert balanced_weights([6, 0, 2]).tolist() == pytest.approx([0.5, 1.0, 1.5])
    assert balanced_weights([0, 0]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("auto", [0.6, 0.6, 1.8]),
        ({"dog": 3.0}, [1.0, 3.0, 1.0]),
        ([1.0, 0.0, 2.0], [1.0, 0.0, 2.0]),
    ],
)
def test_weights_come_in_four_forms(given: Any, expected: Any) -> None:
    weights = resolve_weights(given, NAMES, [3, 3, 1])
    assert (None if weights is None else weights.tolist()) == pytest.approx(expected)


def test_class_whose_name_is_a_number_has_its_weight() -> None:
    numbers: Any = {1: 4.0}
    weights = resolve_weights(numbers, ["0", "1"], None)
    assert weights is not None and weights.tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dgo": 2.0}, f"{WEIGHTS}.dgo: there is no such class. The classes are cat, dog, fox. Did you mean 'dog'?"),
        ([1.0, 2.0], f"{WEIGHTS}: has 2 numbers, and there are 3 classes (cat, dog, fox), got [1.0, 2.0]. "
         "Write one number for each class in this order."),
        ({"dog": -1.0}, f"{WEIGHTS}.dog: must be a number from 0 on, got -1.0. Write for example 1.0."),
        ([1.0, math.inf, 1.0], f"{WEIGHTS}.1: must be a number from 0 on, got inf. Write for example 1.0."),
        ([1.0, 1.0, math.nan], f"{WEIGHTS}.2: must be a number from 0 on, got nan. Write for example 1.0."),
        ([0.0, 0.0, 0.0], f"{WEIGHTS}: leaves no class to learn: every weight is 0, got [0.0, 0.0, 0.0]. "
         "Write null to weigh all classes alike."),
        ("balanced", f"{WEIGHTS}: must be auto, weights by class name, or a list of weights, got 'balanced'. "
         "Write auto or null."),
        ("auto", f"{WEIGHTS}: the data does not say how many images its classes have, got 'auto'. "
         "Write the weights by class name."),
    ],
)  # fmt: skip
def test_wrong_weights_are_told(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_weights(given, NAMES, None)
    assert str(caught.value) == message


def test_weights_are_shown_in_a_line() -> None:
    assert shown_weights(torch.tensor([0.5, 1.0, 4 / 3]), NAMES) == "cat 0.5, dog 1, fox 1.33"
    many = [str(index) for index in range(30)]
    assert shown_weights(torch.ones(30), many).endswith("9 1, ... 29 1")
