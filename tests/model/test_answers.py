"""Calibration and thresholds in the model and in its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import ImageClassifier
from classifier.checkpoint_writing import WholeFileIO
from classifier.model.answers import Calibration
from classifier.model.deferred import CHECKPOINT_KEY
from tests.scenes import Scenes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
SEVERAL = Calibration(2.0, [0.4, 0.3, 0.6])
OF_TWO = Calibration(2.0, [0.8], 1)


def model(**arguments: Any) -> ImageClassifier:
    return ImageClassifier("timm/test_resnet", pretrained=False, **arguments)


def settled(task: str, num_classes: int, calibration: Calibration | None = None) -> ImageClassifier:
    built = model()
    built.settle([str(index) for index in range(num_classes)], task)
    if calibration is not None:
        built.calibration = calibration
    return built


@pytest.fixture
def saved(workplace: Path) -> Any:
    """Train for a step, and save with a calibration that the training did not make."""

    def save(calibration: Calibration | None, data: Scenes, **arguments: Any) -> str:
        trained = model(**arguments)
        fitted = trainer(max_steps=1)
        fitted.fit(trained, datamodule=data)
        fitted.save_checkpoint("x.ckpt")
        checkpoint = torch.load("x.ckpt", weights_only=True)
        assert checkpoint[CHECKPOINT_KEY]["calibration"] == Calibration().plain()
        if calibration is None:
            del checkpoint[CHECKPOINT_KEY]["calibration"]
        else:
            checkpoint[CHECKPOINT_KEY]["calibration"] = calibration.plain()
        WholeFileIO().save_checkpoint(checkpoint, "x.ckpt")
        return "x.ckpt"

    return save


def test_logits_stay_the_very_same_at_a_temperature_of_one() -> None:
    logits = torch.randn(4, 3, dtype=torch.bfloat16)
    assert settled("multiclass", 3).calibrated(logits) is logits
    halved = settled("multiclass", 3, Calibration(2.0)).calibrated(logits)
    assert halved.dtype == torch.float32
    assert torch.equal(halved, logits.float() / 2)


def test_threshold_of_two_classes_is_that_of_the_positive_one() -> None:
    chances = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.21, 0.79], [0.9, 0.1]])
    second = settled("multiclass", 2, Calibration(1.0, [0.8], 1))
    assert second.decisions(chances).int().argmax(1).tolist() == [1, 1, 0, 0]
    first = settled("multiclass", 2, Calibration(1.0, [0.1], 0))
    assert first.decisions(chances).int().argmax(1).tolist() == [0, 0, 0, 0]
    assert settled("multiclass", 2).decisions(chances).int().argmax(1).tolist() == [1, 1, 1, 0]
    assert second.decisions(chances).sum(1).tolist() == [1, 1, 1, 1]
    assert (second.by_threshold, second.thresholds) == (True, None)
    assert not settled("multiclass", 2, Calibration(3.0)).by_threshold


def test_thresholds_of_several_labels_are_the_tuned_ones() -> None:
    tuned = settled("multilabel", 3, SEVERAL)
    assert tuned.thresholds == [0.4, 0.3, 0.6]
    assert tuned.decisions(torch.tensor([[0.4, 0.29, 0.5]])).tolist() == [[True, False, False]]
    assert settled("multilabel", 3).thresholds == [0.5] * 3


def test_calibration_makes_the_round_trip_through_a_checkpoint(saved: Any) -> None:
    again = ImageClassifier.load_from_checkpoint(saved(SEVERAL, Scenes())).eval()
    assert again.calibration == SEVERAL
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = (again(images) / 2).sigmoid()
        assert torch.equal(again.predict_step((images,), 0), expected)
    run = trainer()
    run.test(again, datamodule=Scenes(), verbose=False)
    run.save_checkpoint("y.ckpt")
    assert ImageClassifier.load_from_checkpoint("y.ckpt").calibration == SEVERAL


def test_calibration_comes_with_the_weights_that_a_trainer_loads(saved: Any) -> None:
    file, built = saved(SEVERAL, Scenes()), model()
    built.build(["cat", "dog", "=fox"], "multilabel")
    trainer().test(built, datamodule=Scenes(), ckpt_path=file, weights_only=True, verbose=False)
    assert built.calibration == SEVERAL


def test_checkpoint_that_knows_of_no_calibration_has_none(saved: Any) -> None:
    again = ImageClassifier.load_from_checkpoint(saved(None, Scenes()))
    assert again.calibration == Calibration()
    assert again.thresholds == [0.5] * 3


@pytest.mark.parametrize(
    ("trained_with", "today", "expected"),
    [
        (None, None, SEVERAL.thresholds),
        ({"dog": 0.2}, {"dog": 0.2}, SEVERAL.thresholds),
        ({"dog": 0.2}, None, SEVERAL.thresholds),
        (None, 0.9, [0.9] * 3),
        ({"dog": 0.2}, {"dog": 0.3}, [0.5, 0.3, 0.5]),
    ],
)
def test_todays_thresholds_win_over_tuned_ones_and_these_over_the_trainings(
    saved: Any, trained_with: Any, today: Any, expected: Any
) -> None:
    file = saved(SEVERAL, Scenes(), thresholds=trained_with)
    built = model(thresholds=today)
    built.rebuild(torch.load(file, weights_only=True))
    assert built.thresholds == expected
    assert built.calibration.temperature == 2.0


@pytest.mark.parametrize("by", ["loading", "resuming"])
def test_training_begins_uncalibrated(saved: Any, by: str) -> None:
    data = Scenes(num_classes=2, task="multiclass")
    file = saved(OF_TWO, data)
    loading = by == "loading"
    again = ImageClassifier.load_from_checkpoint(file) if loading else model()
    seen = []

    class Watch(ImageClassifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(self.calibration)
            return super().validation_step(batch, batch_idx)

    again.__class__ = Watch
    run = trainer(max_epochs=2, limit_train_batches=1)
    run.fit(again, datamodule=data, ckpt_path=None if loading else file, weights_only=True)
    assert seen and set(map(repr, seen)) == {repr(Calibration())}
    run.save_checkpoint("z.ckpt")
    assert ImageClassifier.load_from_checkpoint("z.ckpt").calibration == Calibration()
