"""Steps of a copy: the same from the same start, in every memory format."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from classifier.model.classifier import ImageClassifier
from classifier.model.step_times import BF16, FLOAT32, Setting, StepTimes, largest_difference

CPU = torch.device("cpu")


@pytest.fixture
def model() -> ImageClassifier:
    torch.manual_seed(0)
    built = ImageClassifier("timm/test_resnet", pretrained=False)
    built.build(["a", "b"])
    return built


def steps_of(model: ImageClassifier) -> StepTimes:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    steps = StepTimes(model, CPU)
    steps.take(images, torch.tensor([0, 1, 0, 1]))
    return steps


def test_losses_are_those_of_a_plain_training_and_the_model_stays(model: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps = steps_of(model)
    first = steps.losses(Setting(FLOAT32, False), 3)
    again = steps.losses(Setting(FLOAT32, False), 3)
    assert first == again
    assert first[2] < first[0]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        logits = model.train()(steps.images)
    loss = torch.nn.functional.cross_entropy(logits, steps.targets)
    assert first[0] == pytest.approx(float(loss), rel=1e-6)


def test_losses_of_other_settings_are_nearly_the_same(model: Any) -> None:
    steps = steps_of(model)
    plain = steps.losses(Setting(FLOAT32, False), 3)
    assert largest_difference(steps.losses(Setting(FLOAT32, True), 3), plain) < 1e-4
    half = largest_difference(steps.losses(Setting(BF16, True), 3), plain)
    assert 0 < half < 0.05


def test_seconds_are_those_of_one_step(model: Any) -> None:
    assert 0 < steps_of(model).seconds(Setting(FLOAT32, True), 1) < 60


def test_largest_difference_is_a_share_and_infinite_of_what_is_no_number() -> None:
    assert largest_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert largest_difference([0.01], [0.0]) == pytest.approx(0.1)  # of small losses, of a tenth
    assert largest_difference([1.0, math.nan], [1.0, 1.0]) == math.inf
