from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import ImageClassifier
from classifier.checkpoint_writing import WholeFileIO
from classifier.errors import ConfigError
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.model.tasks import class_facts
from tests.scenes import Scenes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
NAMES = ["cat", "dog", "fox"]


def model(**arguments: Any) -> ImageClassifier:
    return ImageClassifier("timm/test_resnet", pretrained=False, **arguments)


def test_unknown_task_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        model(task="multilable")
    assert str(caught.value) == (
        "model.init_args.task: must be multiclass, multilabel or null, got 'multilable'. "
        "Write null to take it from the data. Did you mean 'multilabel'?"
    )


@pytest.mark.parametrize(
    ("given", "found", "task"),
    [(None, None, "multiclass"), (None, "multilabel", "multilabel"), ("multilabel", None, "multilabel")],
)  # fmt: skip
def test_task_is_the_users_or_the_datas(given: Any, found: Any, task: str) -> None:
    built = model(task=given)
    built.build(NAMES, task=found)
    assert built.task == task


def test_task_that_is_not_the_datas_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        model(task="multiclass").build(NAMES, task="multilabel")
    assert str(caught.value) == (
        "model.init_args.task: disagrees with the data, which is multilabel, got 'multiclass'. "
        "Write null to take it from the data."
    )


def test_facts_of_a_foreign_data_module_are_those_that_it_has() -> None:
    class Foreign:
        task = "detection"

    nothing = {"class_names": None, "task": None, "class_counts": None}
    assert class_facts(None) == class_facts(Foreign()) == nothing
    facts = class_facts(Scenes(num_classes=2))
    assert facts["class_names"] == ["cat", "dog"] and facts["task"] == "multilabel"
    assert len(facts["class_counts"]) == 2


def test_probabilities_of_several_labels_stand_each_for_itself() -> None:
    logits = torch.tensor([[0.0, 2.0, -2.0]], dtype=torch.bfloat16)
    several = model(task="multilabel").probabilities(logits)
    one = model(task="multiclass").probabilities(logits)
    assert several.dtype == one.dtype == torch.float32
    assert several.tolist()[0] == pytest.approx([0.5, 0.880797, 0.119203], abs=1e-6)
    assert one.sum().item() == pytest.approx(1.0)


def test_class_is_decided_from_its_threshold_on() -> None:
    chances = torch.tensor([[0.5, 0.5, 0.5], [0.25, 0.9, 0.49]])
    several = model(thresholds=[0.5, 0.75, 0.25])
    several.settle(NAMES, "multilabel")
    assert several.decisions(chances).tolist() == [
        [True, False, True], [False, True, True],
    ]  # fmt: skip
    assert model().decisions(chances[1:]).tolist() == [[False, True, False]]


def test_checkpoint_keeps_task_and_thresholds(workplace: Path) -> None:
    first = model(thresholds={"dog": 0.3})
    fitted = trainer(max_steps=1)
    fitted.fit(first, datamodule=Scenes())
    fitted.save_checkpoint("x.ckpt")
    again = ImageClassifier.load_from_checkpoint("x.ckpt")
    assert (again.task, again.thresholds) == ("multilabel", [0.5, 0.3, 0.5])
    # A model that was told nothing of its own takes the checkpoint's; its own word wins.
    checkpoint = torch.load("x.ckpt", weights_only=True)
    for given, expected in ((None, [0.5, 0.3, 0.5]), (0.8, [0.8, 0.8, 0.8])):
        other = model(thresholds=given)
        other.rebuild(checkpoint)
        assert (other.task, other.thresholds) == ("multilabel", expected)
    images = torch.randn(2, 3, 32, 32)
    again.eval()
    first.eval()
    with torch.no_grad():
        predicted = again.predict_step((images,), 0)
        assert torch.equal(predicted, first(images).sigmoid())


def test_checkpoint_without_a_task_is_multiclass(workplace: Path) -> None:
    fitted = trainer(max_steps=1)
    fitted.fit(model(), datamodule=Scenes(task="multiclass"))
    fitted.save_checkpoint("x.ckpt")
    checkpoint = torch.load("x.ckpt", weights_only=True)
    for key in ("task", "thresholds"):
        del checkpoint[CHECKPOINT_KEY][key]
    for key in ("task", "class_weights", "thresholds"):
        del checkpoint["hyper_parameters"][key]
    WholeFileIO().save_checkpoint(checkpoint, "old.ckpt")
    old = ImageClassifier.load_from_checkpoint("old.ckpt")
    assert (old.task, old.thresholds) == ("multiclass", None)
    chances = old.eval().predict_step((torch.randn(2, 3, 32, 32),), 0)
    assert chances.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_single_class_is_learned_beside_nothing() -> None:
    one = model()
    fitted = trainer()
    fitted.fit(one, datamodule=Scenes(num_classes=1))
    assert one.class_names == ["cat"]
    assert one.predict_step((torch.randn(2, 3, 32, 32),), 0).shape == (2, 1)


def test_number_of_classes_is_checked_with_several_labels() -> None:
    with pytest.raises(
        ConfigError, match=r"^model\.init_args\.num_classes: disagrees with the data"
    ):
        model(num_classes=4).build(NAMES, task="multilabel")
