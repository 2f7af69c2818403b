from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier import ImageClassifier
from classifier.model.losses import classification_loss
from classifier.model.per_class import balanced_weights
from tests.scenes import Scenes, trainer

PLAIN = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def batch(seed: int = 0, size: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, class indices, and several labels."""
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, 3, generator=random) * 3,
        torch.randint(0, 3, (size,), generator=random),
        torch.randint(0, 2, (size, 3), generator=random).float(),
    )


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 5.0]])
def test_multiclass_loss_is_the_weighted_mean_of_log_probabilities(weights: Any) -> None:
    logits, targets, _ = batch()
    chances = np.exp(logits.double().numpy())
    chances /= chances.sum(axis=1, keepdims=True)
    own = np.ones(3) if weights is None else np.array(weights)
    terms = [-math.log(row[index]) for row, index in zip(chances, targets.tolist(), strict=True)]
    shares = [own[index] for index in targets.tolist()]
    expected = np.average(terms, weights=shares)
    given = None if weights is None else torch.tensor(weights)
    loss = classification_loss(logits, targets, "multiclass", given)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isclose(loss, torch.nn.CrossEntropyLoss(given)(logits, targets))


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 5.0]])
def test_multilabel_loss_is_the_mean_over_images_and_classes(weights: Any) -> None:
    logits, _, targets = batch()
    chances = 1 / (1 + np.exp(-logits.double().numpy()))
    truth = targets.numpy()
    terms = -(truth * np.log(chances) + (1 - truth) * np.log(1 - chances))
    expected = (terms * (np.ones(3) if weights is None else np.array(weights))).mean()
    given = None if weights is None else torch.tensor(weights)
    loss = classification_loss(logits, targets, "multilabel", given)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_of_half_precision_logits_is_in_float32() -> None:
    logits, targets, several = batch()
    for task, truth in (("multiclass", targets), ("multilabel", several)):
        loss = classification_loss(logits.bfloat16(), truth, task, torch.ones(3))
        assert loss.dtype == torch.float32


def test_batch_of_weight_zero_teaches_nothing() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    targets = torch.ones(4, dtype=torch.int64)
    loss: Any = classification_loss(logits, targets, "multiclass", torch.tensor([1.0, 0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()


class Recorded(Callback):
    """Keeps what the steps return."""

    def __init__(self) -> None:
        self.train: list[dict[str, Tensor]] = []
        self.validation: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:  # fmt: skip
        self.train.append({name: value.detach() for name, value in outputs.items()})

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.validation.append(outputs)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
class TestTraining:
    pytestmark = PLAIN

    def test_weights_are_of_the_training_loss_alone(self, task: str) -> None:
        data = Scenes(task=task)
        model = ImageClassifier("timm/test_resnet", pretrained=False, class_weights="auto")
        seen = Recorded()
        L.seed_everything(0, verbose=False)
        trainer(callbacks=[seen]).fit(model, datamodule=data)
        weights = balanced_weights(data.class_counts() or [])
        assert weights.max() > 1.5 * weights.min()
        own: Any = torch.nn.CrossEntropyLoss if task == "multiclass" else torch.nn.BCEWithLogitsLoss
        for step in seen.train:
            expected = own(weight=weights)(step["logits"], step["targets"])
            assert torch.isclose(step["loss"], expected)
        for step in seen.validation:
            assert torch.isclose(step["loss"], own()(step["logits"], step["targets"]))

    def test_weights_are_found_again_after_loading_a_checkpoint(
        self, task: str, workplace: Any
    ) -> None:
        model = ImageClassifier("timm/test_resnet", pretrained=False, class_weights="auto")
        first = trainer(max_steps=1)
        first.fit(model, datamodule=Scenes(task=task))
        first.save_checkpoint("x.ckpt")
        again = ImageClassifier.load_from_checkpoint("x.ckpt")
        assert again.loss_weights is None
        trainer(max_steps=1).fit(again, datamodule=Scenes(task=task))
        assert again.loss_weights is not None and model.loss_weights is not None
        assert again.loss_weights.tolist() == model.loss_weights.tolist()

    def test_half_precision_rounds_neither_weights_nor_thresholds(self, task: str) -> None:
        several: Any = {"thresholds": 0.3} if task == "multilabel" else {}
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False, class_weights={"dog": 0.3}, **several
        )
        trainer(max_steps=1, precision="bf16-true").fit(model, datamodule=Scenes(task=task))
        assert model.loss_weights is not None
        assert model.loss_weights.tolist() == pytest.approx([1.0, 0.3, 1.0])
        assert model.thresholds == ([0.3] * 3 if several else None)
