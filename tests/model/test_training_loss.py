from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import timm.data.mixup
import timm.loss
import torch
import torchvision
from torch import Tensor, nn

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model import training_loss
from classifier.model.training_loss import TrainingLoss, check_loss
from tests.model.test_losses import PLAIN, Recorded, batch
from tests.scenes import Scenes, trainer

KEY = "model.init_args.loss_config"
WEIGHTS = torch.tensor([0.2, 1.0, 5.0])
MINE = "tests.model.test_training_loss"


def soft(seed: int = 3, size: int = 7) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, generator=random).softmax(dim=1)


def one_hot(targets: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(targets, 3).float()


def loss_of(config: Any, task: str = "multiclass", weights: Tensor | None = None) -> TrainingLoss:
    return TrainingLoss(config, task, 3, weights)


class Plain(nn.Module):
    """A loss without class weights."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets)


class Learning(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class Tricky(Plain):
    """A loss that refuses its argument."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        raise ValueError("margin must be small.")


# The losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch_on_class_indices(weights: Any, smoothing: float) -> None:
    logits, targets, _ = batch()
    own = loss_of({"name": "cross_entropy", "label_smoothing": smoothing}, weights=weights)
    theirs = nn.CrossEntropyLoss(weights, label_smoothing=smoothing)(logits, targets)
    assert torch.isclose(own(logits, targets), theirs)
    assert torch.isclose(own(logits, one_hot(targets)), theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_targets_is_that_of_torch(smoothing: float) -> None:
    logits = batch()[0]
    config = {"name": "cross_entropy", "label_smoothing": smoothing}
    theirs = nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, soft())
    assert torch.isclose(loss_of(config)(logits, soft()), theirs)
    # With weights the sum is torch's; it is divided by the weights of the images.
    total = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=smoothing, reduction="sum")
    expected = total(logits, soft()) / sum(
        float(weight * share) for row in soft() for weight, share in zip(WEIGHTS, row, strict=True)
    )
    assert torch.isclose(loss_of(config, weights=WEIGHTS)(logits, soft()), expected)


def test_smoothed_cross_entropy_is_that_of_timm() -> None:
    logits, targets, _ = batch()
    own = loss_of({"name": "cross_entropy", "label_smoothing": 0.1})
    theirs: Tensor = timm.loss.LabelSmoothingCrossEntropy(0.1)(logits, targets)
    assert torch.isclose(own(logits, targets), theirs)
    dense: Tensor = timm.loss.SoftTargetCrossEntropy()(logits, soft())
    assert torch.isclose(loss_of({"name": "cross_entropy"})(logits, soft()), dense)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_default_is_the_plain_loss_of_soft_targets_too(weights: Any) -> None:
    logits, targets, several = batch()
    for truth in (targets, soft()):
        own = loss_of(None, weights=weights)(logits, truth)
        named = loss_of({"name": "cross_entropy"}, weights=weights)(logits, truth)
        assert torch.isclose(own, named)
    for truth in (several, several * 0.7):
        own = loss_of(None, "multilabel", weights)(logits, truth)
        assert torch.isclose(own, loss_of({"name": "bce"}, "multilabel", weights)(logits, truth))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"smoothing": 0.0}),
        ({"label_smoothing": 0.1}, {"smoothing": 0.1}),
        ({"target_threshold": 0.3}, {"smoothing": 0.0, "target_threshold": 0.3}),
        ({"label_smoothing": 0.1, "sum_classes": True}, {"smoothing": 0.1, "sum_classes": True}),
    ],
)
def test_bce_is_that_of_timm(weights: Any, ours: Any, theirs: Any) -> None:
    logits, targets, several = batch()
    reference = timm.loss.BinaryCrossEntropy(weight=weights, **theirs)
    own = loss_of({"name": "bce", **ours}, weights=weights)
    assert torch.isclose(own(logits, targets), reference(logits, targets))
    if not theirs["smoothing"]:
        assert torch.isclose(own(logits, soft()), reference(logits, soft()))
    dense = timm.loss.BinaryCrossEntropy(weight=weights, smooth_dense=True, **theirs)
    own = loss_of({"name": "bce", **ours}, "multilabel", weights)
    assert torch.isclose(own(logits, several), dense(logits, several))


def test_smoothing_of_mixed_targets_is_that_of_timm() -> None:
    logits, targets, _ = batch(size=6)
    lam = 0.3
    smooth = timm.data.mixup.mixup_target(targets, 3, lam, smoothing=0.1)
    mixed = timm.data.mixup.mixup_target(targets, 3, lam, smoothing=0.0)
    reference: Any = timm.loss.BinaryCrossEntropy(smoothing=0.0)
    own = loss_of({"name": "bce", "label_smoothing": 0.1})
    assert torch.isclose(own(logits, mixed), reference(logits, smooth))
    own = loss_of({"name": "cross_entropy", "label_smoothing": 0.1})
    assert torch.isclose(own(logits, mixed), timm.loss.SoftTargetCrossEntropy()(logits, smooth))


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_several_labels_is_that_of_torchvision(gamma: float, alpha: Any) -> None:
    logits, _, several = batch()
    for truth in (several, several * 0.6 + 0.2):
        terms = torchvision.ops.sigmoid_focal_loss(
            logits, truth, -1 if alpha is None else alpha, gamma
        )
        config = {"name": "focal", "gamma": gamma, "alpha": alpha}
        own = loss_of(config, "multilabel")(logits, truth)
        assert torch.isclose(own, terms.mean())
        own = loss_of(config, "multilabel", WEIGHTS)(logits, truth)
        assert torch.isclose(own, (terms * WEIGHTS).mean())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_one_label_is_that_of_the_paper(gamma: float, weights: Any) -> None:
    logits, targets, _ = batch()
    chances = logits.double().softmax(dim=1)
    shares = torch.ones(3).double() if weights is None else weights.double()
    total = mass = 0.0
    for row, index in zip(chances, targets.tolist(), strict=True):
        total += float(-shares[index] * (1 - row[index]) ** gamma * row[index].log())
        mass += float(shares[index])
    own = loss_of({"name": "focal", "gamma": gamma}, weights=weights)
    assert own(logits, targets).item() == pytest.approx(total / mass, rel=1e-5)
    if gamma == 0:
        plain = loss_of({"name": "cross_entropy"}, weights=weights)
        assert torch.isclose(own(logits, soft()), plain(logits, soft()))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_focal_loss_has_a_finite_slope_where_the_answer_is_sure(task: str) -> None:
    logits = torch.tensor([[90.0, -90.0, -90.0]], requires_grad=True)
    truth = torch.tensor([[1.0, 0.0, 0.0]])
    loss_of({"name": "focal", "gamma": 0.5}, task)(logits, truth).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


CASES = [
    (None, "multiclass"), (None, "multilabel"), ({"name": "cross_entropy"}, "multiclass"),
    ({"name": "bce"}, "multiclass"), ({"name": "bce"}, "multilabel"),
    ({"name": "focal"}, "multiclass"), ({"name": "focal"}, "multilabel"),
    ({"name": "torch.nn.CrossEntropyLoss"}, "multiclass"),
    ({"name": "timm.loss.SoftTargetCrossEntropy"}, "multiclass"),
    ({"name": "timm.loss.AsymmetricLossMultiLabel"}, "multilabel"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "task"), CASES)
def test_loss_is_in_float32_also_within_autocast(config: Any, task: str) -> None:
    logits, targets, several = batch()
    truth = several if task == "multilabel" else targets
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(config, task)(logits.bfloat16(), truth)
    assert loss.dtype == torch.float32
    assert torch.isclose(loss, loss_of(config, task)(logits.bfloat16().float(), truth))


# Classes by import path


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_class_of_torch_gets_the_class_weights(weights: Any) -> None:
    logits, targets, several = batch()
    own = loss_of({"name": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.2}, weights=weights)
    theirs: nn.Module = nn.CrossEntropyLoss(weights, label_smoothing=0.2)
    assert torch.equal(own(logits, targets), theirs(logits, targets))
    own = loss_of({"name": "torch.nn.BCEWithLogitsLoss"}, "multilabel", weights)
    assert torch.equal(own(logits, several), nn.BCEWithLogitsLoss(weights)(logits, several))


def test_class_that_takes_no_indices_gets_one_hot_targets() -> None:
    logits, targets, _ = batch()
    own = loss_of({"name": "timm.loss.SoftTargetCrossEntropy"})
    assert torch.isclose(own(logits, targets), nn.CrossEntropyLoss()(logits, targets))
    own = loss_of({"name": "torch.nn.BCEWithLogitsLoss"})
    assert torch.equal(own(logits, targets), nn.BCEWithLogitsLoss()(logits, one_hot(targets)))


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ({"name": f"{MINE}.Plain"}, {"weights": WEIGHTS},
         "model.init_args.class_weights: Plain takes no weights of classes. "
         "Write null, or choose a loss whose __init__ takes weight."),
        ({"name": f"{MINE}.Learning"}, {}, f"{KEY}.name: has parameters to learn, which the optimizer "
         f"does not get, got '{MINE}.Learning'. Choose a loss without parameters."),
        ({"name": f"{MINE}.Tricky", "margin": 9}, {}, f"{KEY}: {MINE}.Tricky refuses its arguments: "
         "margin must be small, got {'margin': 9}. It takes margin."),
        ({"name": f"{MINE}.Tricky", "margn": 9}, {}, f"{KEY}.margn: Tricky takes no 'margn'. "
         "It takes margin. Did you mean 'margin'?"),
        ({"name": "torch.nn.CrossEntropyLoss", "weight": [1]}, {},
         f"{KEY}.weight: is set by class_weights. Write model.init_args.class_weights."),
        ({"name": "torch.nn.CrossEntropyLoss", "reduction": "none"}, {},
         f"{KEY}.name: CrossEntropyLoss gives more than one number. Write reduction: mean."),
        ({"name": "torch.nn.functional.cross_entropy"}, {}, f"{KEY}.name: is no torch.nn.Module, got "
         "'torch.nn.functional.cross_entropy'. Write the import path of a class that takes logits and targets."),
    ],
)  # fmt: skip
def test_class_that_does_not_fit_is_told(config: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingLoss(config, "multiclass", 3, **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "task", "soft", "problem"),
    [
        ("timm.loss.LabelSmoothingCrossEntropy", "multiclass", True, "does not take soft targets"),
        ("torch.nn.MultiMarginLoss", "multilabel", False, "the targets of a multilabel training"),
        ("torch.nn.CosineEmbeddingLoss", "multiclass", False, "the targets of a multiclass training"),
    ],
)  # fmt: skip
def test_class_that_does_not_take_the_targets_is_refused(
    name: str, task: str, soft: bool, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{KEY}\.name: \w+ does not take .*") as caught:
        TrainingLoss({"name": name}, task, 3, soft=soft)
    assert problem in str(caught.value)


# Mistakes


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        ({"name": "fokal"}, None, f"{KEY}.name: unknown loss, got 'fokal'. Write cross_entropy, bce, focal, "
         "or the import path of a class. Did you mean 'focal'?"),
        ({"label_smoothing": 0.1}, None, f"{KEY}.name: must be the name of a loss, got None. "
         "Write for example name: cross_entropy."),
        ({"name": "bce", "smoothing": 0.1}, None, f"{KEY}.smoothing: bce takes no 'smoothing'. It takes "
         "label_smoothing, target_threshold, sum_classes. Did you mean 'label_smoothing'?"),
        ({"name": "bce", "weights": 0.1}, None, f"{KEY}.weights: bce takes no 'weights'. It takes "
         "label_smoothing, target_threshold, sum_classes."),
        ({"name": "cross_entropy", "label_smoothing": 1.0}, None,
         f"{KEY}.label_smoothing: must be in [0, 1), got 1.0. Write for example 0.1."),
        ({"name": "bce", "target_threshold": "half"}, None,
         f"{KEY}.target_threshold: must be in (0, 1) or null, got 'half'. Write for example 0.2."),
        ({"name": "bce", "sum_classes": 1}, None,
         f"{KEY}.sum_classes: must be true or false, got 1. Write for example false."),
        ({"name": "bce", "label_smoothing": 0.1, "target_threshold": 0.2}, None,
         f"{KEY}.label_smoothing: has no effect beside target_threshold, which makes every target 0 or 1, "
         "got 0.1. Leave one of the two out."),
        ({"name": "focal", "gamma": -1}, None,
         f"{KEY}.gamma: must be a number from 0 on, got -1. Write for example 2.0."),
        ({"name": "focal", "alpha": 0.25}, "multiclass", f"{KEY}.alpha: is for several labels per image, and "
         "the data is multiclass, got 0.25. Weigh the classes by class_weights."),
        ({"name": "cross_entropy"}, "multilabel", f"{KEY}.name: is for one label per image, and the data is "
         "multilabel, got 'cross_entropy'. Write bce, focal or null."),
        ({"name": "torch.nn.CrossEntropyLos"}, None, f"{KEY}.name: torch.nn has no 'CrossEntropyLos', got "
         "'torch.nn.CrossEntropyLos'. Correct the name. Did you mean 'CrossEntropyLoss'?"),
    ],
)  # fmt: skip
def test_wrong_loss_is_told(config: Any, task: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_loss(config, task)
    assert str(caught.value) == message


def poly(logits: Tensor, targets: Tensor, weights: Any, task: str, epsilon: float = 1.0) -> Tensor:
    """The cross-entropy on one-hot targets, and epsilon * (1 - p) of the right class."""
    chances = logits.softmax(dim=1)
    terms = -targets * logits.log_softmax(dim=1) + epsilon * targets * (1 - chances)
    return terms.sum() / len(targets)


def test_loss_of_one_line_more_takes_its_own_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training_loss._LOSSES, "poly", poly)
    logits, targets, _ = batch()
    right = logits.softmax(dim=1)[range(len(targets)), targets]
    expected = (2.5 * (1 - right) - right.log()).mean()
    torch.testing.assert_close(loss_of({"name": "poly", "epsilon": 2.5})(logits, targets), expected)


def test_wrong_loss_is_found_when_the_model_is_made() -> None:
    with pytest.raises(ConfigError, match=r"loss_config\.name: unknown loss, got 'x'"):
        ImageClassifier("timm/test_resnet", pretrained=False, loss_config={"name": "x"})


def test_loss_for_another_task_is_found_when_the_data_is_known() -> None:
    model = ImageClassifier(
        "timm/test_resnet", pretrained=False, loss_config={"name": "cross_entropy"}
    )
    with pytest.raises(ConfigError, match="the data is multilabel"):
        model.settle(["a", "b"], "multilabel")


# Training


class TestTraining:
    pytestmark = PLAIN

    @pytest.mark.parametrize(("config", "task"), CASES[2:])
    def test_named_loss_trains_and_the_plain_one_is_validated(self, config: Any, task: str) -> None:
        data = Scenes(task=task)
        model = ImageClassifier("timm/test_resnet", pretrained=False, loss_config=config)
        seen = Recorded()
        L.seed_everything(0, verbose=False)
        trainer(callbacks=[seen], max_steps=3).fit(model, datamodule=data)
        own = loss_of(config, task)
        for step in seen.train:
            assert torch.isclose(step["loss"], own(step["logits"], step["targets"]))
        plain: Any = nn.CrossEntropyLoss() if task == "multiclass" else nn.BCEWithLogitsLoss()
        assert seen.validation
        for step in seen.validation:
            assert torch.isclose(step["loss"], plain(step["logits"], step["targets"]))

    def test_smoothing_and_class_weights_are_of_the_training_alone(self) -> None:
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False, class_weights=[0.2, 1.0, 5.0],
            loss_config={"name": "cross_entropy", "label_smoothing": 0.3},
        )  # fmt: skip
        seen = Recorded()
        data = Scenes(task="multiclass")
        trainer(callbacks=[seen], max_steps=3).fit(model, datamodule=data)
        smooth = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.3)
        for step in seen.train:
            assert torch.isclose(step["loss"], smooth(step["logits"], step["targets"]))
        for step in seen.validation:
            assert torch.isclose(
                step["loss"], nn.CrossEntropyLoss()(step["logits"], step["targets"])
            )

    def test_loss_leaves_no_trace_in_the_weights(self) -> None:
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False, class_weights=[1.0, 2.0],
            loss_config={"name": "torch.nn.CrossEntropyLoss"},
        )  # fmt: skip
        plain = ImageClassifier("timm/test_resnet", pretrained=False)
        for each in (model, plain):
            each.build(["a", "b"])
        assert set(model.state_dict()) == set(plain.state_dict())
