from __future__ import annotations

import math
from typing import Any

import lightning as L
import pytest
import timm.data.mixup
import torch
from torch import Tensor
from torchvision.transforms import v2

from classifier import ImageClassifier, MetricsLogger
from classifier.errors import ConfigError
from classifier.model.mixing import Mixing, build_mixing
from tests.model.test_losses import PLAIN, Recorded
from tests.scenes import Scenes, trainer

KEY = "model.init_args.mixup_config"


def pictures(size: int = 7, side: int = 12) -> Tensor:
    return torch.randn(size, 3, side, side + 4, generator=torch.Generator().manual_seed(1))


def labels(size: int = 7) -> Tensor:
    return torch.arange(size) % 3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        ({"mixup_alpha": 0.4}, v2.MixUp(alpha=0.4, num_classes=3)),
        ({"cutmix_alpha": 1.0}, v2.CutMix(alpha=1.0, num_classes=3)),
    ],
)
def test_mixing_is_that_of_torchvision(config: Any, theirs: Any, seed: int) -> None:
    torch.manual_seed(seed)
    expected = theirs(pictures(), labels())
    torch.manual_seed(seed)
    mixed = Mixing(**config)(pictures(), labels(), 3, epoch=0)
    torch.testing.assert_close(mixed.images, expected[0])
    torch.testing.assert_close(mixed.targets, expected[1], atol=1e-6, rtol=1e-5)


def test_share_of_a_clipped_box_is_that_of_timm(monkeypatch: Any) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = Mixing(cutmix_alpha=1.0)(pictures(), torch.arange(7), 7, epoch=0)
        pasted = (mixed.images == pictures().roll(1, 0)).all(dim=1)[0]
        rows, columns = pasted.any(dim=1).nonzero().flatten(), pasted.any(dim=0).nonzero().flatten()
        if not len(rows):
            continue
        box = rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1
        monkeypatch.setattr(timm.data.mixup, "rand_bbox", lambda *_, box=box, **__: box)
        _, share = timm.data.mixup.cutmix_bbox_and_lam(pictures().shape, 0.5)
        assert mixed.targets[0].max().item() == pytest.approx(max(share, 1 - share), abs=1e-6)
        assert pasted.float().mean().item() == pytest.approx(1 - share)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_targets_keep_their_mass_and_batches_any_size(kind: str, size: int) -> None:
    several = (torch.rand(size, 4, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    for seed in range(5):
        torch.manual_seed(seed)
        mixed = Mixing(**{kind: 1.0})(pictures(size), labels(size), 3, epoch=0)
        torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(size))
        mixed = Mixing(**{kind: 1.0})(pictures(size), several, 4, epoch=0)
        torch.testing.assert_close(mixed.targets.sum(dim=0), several.sum(dim=0))
        assert mixed.images.shape == pictures(size).shape


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_memory_format_and_type_of_the_images_stay(kind: str) -> None:
    images = pictures().bfloat16().to(memory_format=torch.channels_last)
    mixed = Mixing(**{kind: 1.0})(images, labels(), 3, epoch=0).images
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert mixed.dtype == torch.bfloat16


def test_main_target_is_that_of_the_larger_share() -> None:
    sides = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = Mixing(mixup_alpha=1.0)(pictures(), labels(), 3, epoch=0)
        different = labels() != labels().roll(1, 0)
        assert torch.equal(mixed.main[different], mixed.targets.argmax(dim=1)[different])
        sides.add(torch.equal(mixed.main, labels()))
    assert sides == {True, False}


def test_probabilities_are_kept() -> None:
    torch.manual_seed(0)
    both = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, prob=0.6, switch_prob=0.25)
    kinds = {"none": 0, "cut": 0, "blend": 0}
    images = pictures(2, 8)
    for _ in range(2000):
        mixed = both(images, labels(2), 3, epoch=0)
        if mixed.images is images:
            kinds["none"] += 1
            assert mixed.targets is mixed.main
        else:
            same = (mixed.images == images) | (mixed.images == images.roll(1, 0))
            kinds["cut" if same.all() else "blend"] += 1
    assert kinds["none"] / 2000 == pytest.approx(0.4, abs=0.05)
    assert kinds["cut"] / 2000 == pytest.approx(0.6 * 0.25, abs=0.04)


@pytest.mark.parametrize(
    ("off", "max_epochs", "expected"),
    [(None, 10, math.inf), (3, 10, 3), (0.5, 10, 5), (0.75, 10, 8), (15, -1, 15)],
)
def test_switch_is_an_epoch_or_a_fraction(off: Any, max_epochs: int, expected: float) -> None:
    mixing = Mixing(mixup_alpha=1.0, mixup_off_epoch=off)
    mixing.plan(trainer(max_epochs=max_epochs, max_steps=5 if max_epochs < 0 else -1))
    assert mixing.num_epochs == expected
    if expected < math.inf:
        assert mixing(pictures(), labels(), 3, int(expected)).targets.ndim == 1
    assert mixing(pictures(), labels(), 3, 2).targets.ndim == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, f"{KEY}: mixes nothing: mixup_alpha and cutmix_alpha are 0, got {{}}. "
         "Write for example mixup_alpha: 0.2, or null."),
        ({"mixup_alph": 1}, f"{KEY}.mixup_alph: Mixing takes no 'mixup_alph'. It takes mixup_alpha, cutmix_alpha, "
         "prob, switch_prob, mixup_off_epoch. Did you mean 'mixup_alpha'?"),
        ({"mixup_alpha": -1}, f"{KEY}.mixup_alpha: must be a number from 0 on, got -1. Write for example 0.2."),
        ({"mixup_alpha": 1, "prob": 0}, f"{KEY}.prob: must be in (0, 1], got 0. Write for example 1.0."),
        ({"mixup_alpha": 1, "switch_prob": 0.5}, f"{KEY}.switch_prob: has no effect: it chooses between Mixup and "
         "CutMix, and one of the two is off, got 0.5. Leave it out."),
        ({"mixup_alpha": 1, "mixup_off_epoch": 1.5}, f"{KEY}.mixup_off_epoch: must be an epoch from 1 on, "
         "a fraction in (0, 1) or null, got 1.5. Write for example 15."),
        ({"mixup_alpha": 1, "mixup_off_epoch": math.inf}, f"{KEY}.mixup_off_epoch: must be an epoch from 1 on, "
         "a fraction in (0, 1) or null, got inf. Write for example 15."),
    ],
)  # fmt: skip
def test_wrong_mixing_is_told(config: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_mixing(config)
    assert str(caught.value) == message


class TestTraining:
    pytestmark = PLAIN

    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    @pytest.mark.parametrize("task", ["multiclass", "multilabel"])
    @pytest.mark.parametrize("loss", [None, "bce", "focal", "torch.nn.BCEWithLogitsLoss"])
    def test_every_loss_trains_on_mixed_images(self, loss: Any, task: str, precision: Any) -> None:
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False, loss_config=loss and {"name": loss},
            mixup_config={"mixup_alpha": 0.5, "cutmix_alpha": 1.0}, class_weights="auto",
        )  # fmt: skip
        seen = Recorded()
        L.seed_everything(0, verbose=False)
        run = trainer(callbacks=[seen, MetricsLogger()], max_steps=4, precision=precision)
        run.fit(model, datamodule=Scenes(task=task))
        for step in seen.train:
            assert step["loss"].dtype == torch.float32 and torch.isfinite(step["loss"])
            # What metrics are given is not mixed.
            assert step["targets"].dtype == (torch.int64 if task == "multiclass" else torch.float32)
            assert set(step["targets"].flatten().tolist()) <= {0, 1, 2}
        assert "train_f1_score" in run.callback_metrics
        half = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        assert seen.train[0]["logits"].dtype == half

    def test_only_training_before_the_switch_is_mixed(self) -> None:
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False,
            mixup_config={"mixup_alpha": 1.0, "mixup_off_epoch": 0.5},
        )  # fmt: skip
        inputs: dict[str, list[Tensor]] = {"train": [], "validation": []}

        def keep(_: Any, arguments: Any) -> None:
            inputs["train" if model.training else "validation"].append(arguments[0].clone())

        model.build(["cat", "dog", "=fox"], "multiclass")
        assert model.network is not None
        model.network.register_forward_pre_hook(keep)
        data = Scenes(task="multiclass", num_images=16)
        trainer(max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=data)
        train, val = data.stage("train").images, data.stage("val").images
        assert torch.equal(torch.cat(inputs["train"][2:]), train)
        for mixed, plain in zip(
            inputs["train"][:2], train.view(2, 8, *train.shape[1:]), strict=True
        ):
            assert not torch.equal(mixed, plain)
        assert torch.equal(torch.cat(inputs["validation"]), torch.cat([val, val]))

    def test_fraction_of_a_training_without_an_end_is_refused(self) -> None:
        model = ImageClassifier(
            "timm/test_resnet", pretrained=False,
            mixup_config={"mixup_alpha": 1.0, "mixup_off_epoch": 0.5},
        )  # fmt: skip
        with pytest.raises(
            ConfigError, match=r"mixup_off_epoch: a fraction needs the length of the training"
        ):
            trainer(max_epochs=-1, max_time={"seconds": 1}).fit(
                model, datamodule=Scenes(task="multiclass")
            )
