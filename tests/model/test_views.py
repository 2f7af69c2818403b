"""Test-time augmentation against plain loops and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from classifier.model.classifier import ImageClassifier
from classifier.model.views import over_views, views_of

KINDS = {"flips": 2, "five_crop": 5}


def some_images(height: int = 16, width: int = 24, num: int = 3) -> Tensor:
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(1))


def some_logits(images: Tensor) -> Tensor:
    """A classifier that sees where things are."""
    weights = torch.randn(
        images[0].numel(), 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    return (images.flatten(1).double() @ weights / 8).to(images.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_means_over_the_views(kind: str) -> None:
    images = some_images()
    views = list(views_of(images, kind))
    assert len(views) == KINDS[kind]
    mean = torch.stack([some_logits(view).softmax(1) for view in views]).mean(0)
    logits = over_views(some_logits, images, kind, several=False)
    torch.testing.assert_close(logits.softmax(1), mean)
    torch.testing.assert_close(logits.exp(), mean)  # the logarithm of the mean itself
    several = over_views(some_logits, images, kind, several=True)
    mean = torch.stack([some_logits(view).sigmoid() for view in views]).mean(0)
    torch.testing.assert_close(several.sigmoid(), mean)


def test_no_views_change_nothing() -> None:
    images = some_images()
    assert torch.equal(over_views(some_logits, images, None, several=False), some_logits(images))


@pytest.mark.parametrize("several", [False, True])
def test_certain_models_give_finite_logits(several: bool) -> None:
    def classify(images: Tensor) -> Tensor:
        return 1000.0 * torch.tensor([[1.0, -1.0, 0.0]]).expand(len(images), 3)

    logits = over_views(classify, some_images(), "flips", several=several)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], torch.full((3,), -2000.0))


def test_views_are_the_crops_enlarged_as_pillow_does() -> None:
    # Of 16 x 24 pixels 7/8 are 14 x 21.
    images = some_images()
    boxes = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)]
    for view, (top, left) in zip(views_of(images, "five_crop"), boxes, strict=True):
        assert view.shape == images.shape
        for channel in range(3):
            crop = images[0, channel, top : top + 14, left : left + 21].numpy()
            expected = np.asarray(
                Image.fromarray(crop, mode="F").resize((24, 16), Image.Resampling.BILINEAR)
            )
            np.testing.assert_allclose(view[0, channel].numpy(), expected, atol=1e-5)


def test_flips_are_the_image_and_its_mirror_image() -> None:
    images = some_images()
    first, second = views_of(images, "flips")
    assert torch.equal(first, images)
    assert np.array_equal(second.numpy(), images.numpy()[:, :, :, ::-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_views_keep_the_type(kind: str, dtype: torch.dtype) -> None:
    views = list(views_of(some_images(1, 1).to(dtype), kind))
    assert {view.dtype for view in views} == {dtype}
    assert {view.shape for view in views} == {(3, 3, 1, 1)}


def build(name: str, task: str, **more: Any) -> ImageClassifier:
    torch.manual_seed(0)
    model = ImageClassifier(name, pretrained=False, task=task, **more)
    model.build(["a", "b", "c"])
    return model.eval()


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "classifier.SmallCNN"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_agree_with_each_other_and_with_a_plain_loop(name: str, task: str, kind: str) -> None:
    side = 160 if "vit" in name else 32
    model = build(name, task)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    several = task == "multilabel"
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 1]]) if several else torch.tensor([2, 0])
    model.views = kind
    with torch.no_grad():
        predicted = model.predict_step((images, targets), 0)
        tested = model.test_step((images, targets), 0)
        views = views_of(model.normalised(images), kind)
        mean = torch.stack([model.probabilities(model(view)) for view in views]).mean(0)
    torch.testing.assert_close(predicted, mean)
    torch.testing.assert_close(model.probabilities(tested["logits"]), mean)
    wanted = (
        torch.nn.functional.binary_cross_entropy(mean, targets)
        if several
        else torch.nn.functional.nll_loss(mean.log(), targets)
    )
    torch.testing.assert_close(tested["loss"], wanted)


def test_uint8_and_floats_give_the_same() -> None:
    model = build("timm/test_resnet", "multiclass")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model.views = "five_crop"
    with torch.no_grad():
        whole = model.predict_step((images,), 0)
        ready = model.predict_step((model.normalised(images),), 0)
    torch.testing.assert_close(whole, ready)


def test_training_sees_one_view() -> None:
    model = build("timm/test_resnet", "multiclass")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen: list[int] = []
    assert model.network is not None
    model.network.register_forward_hook(lambda *_: seen.append(1))
    model.views = "five_crop"
    model._logits((images, torch.tensor([0, 1])))
    assert len(seen) == 1
    assert build("timm/test_resnet", "multiclass").views is None
