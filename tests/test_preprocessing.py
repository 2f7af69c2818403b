"""Images prepared as timm and transformers prepare them, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import Compose, Normalize, ToTensor

from classifier.preprocessing import INTERPOLATIONS, Pixels, Preprocessing

SIDES = st.integers(8, 90)


def noise(height: int, width: int) -> Pixels:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_timm(pixels: Pixels, **config: Any) -> Pixels:
    whole = create_transform(is_training=False, **config)
    steps = [step for step in whole.transforms if not isinstance(step, ToTensor | Normalize)]
    prepared = Compose([step for step in steps if "Tensor" not in type(step).__name__])
    return np.asarray(prepared(Image.fromarray(pixels)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize(
    ("mode", "crop_mode"), [("crop", "center"), ("squash", "squash"), ("pad", "border")]
)
@given(height=SIDES, width=SIDES, square=st.booleans())
@settings(max_examples=12, deadline=None)
def test_prepare_agrees_with_timm(
    mode: str, crop_mode: str, interpolation: str, height: int, width: int, square: bool
) -> None:
    size, resize = ((28, 28), (32, 32)) if square else ((28, 21), (32, 24))
    if mode == "pad":
        resize = size
    ours = Preprocessing(size, resize, mode, interpolation)
    pixels = noise(height, width)
    expected = by_timm(
        pixels, input_size=(3, *size), crop_pct=size[0] / resize[0], crop_mode=crop_mode,
        interpolation=interpolation, mean=ours.mean, std=ours.std,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.prepare(pixels), expected)


@pytest.mark.parametrize("resample", range(6))
@given(height=SIDES, width=SIDES)
@settings(max_examples=12, deadline=None)
def test_prepare_agrees_with_transformers(resample: int, height: int, width: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    names = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    assert set(names) == set(INTERPOLATIONS)
    pixels = noise(height, width)
    plain = {"resample": resample, "do_rescale": False, "do_normalize": False}
    crop = Preprocessing((28, 28), (32, 32), "crop", names[resample], crop_offset="down")
    clip = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=28, **plain)
    squash = Preprocessing((28, 21), (28, 21), "squash", names[resample])
    vit = ViTImageProcessorPil(size={"height": 28, "width": 21}, **plain)
    for ours, theirs in [(crop, clip), (squash, vit)]:
        found = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(ours.prepare(pixels), found.transpose(1, 2, 0))


def test_prepare_keeps_an_image_of_the_right_size() -> None:
    pixels = noise(32, 32)
    for mode in ("crop", "squash", "pad"):
        assert np.array_equal(Preprocessing((32, 32), (32, 32), mode).prepare(pixels), pixels)


def test_prepare_pads_with_the_mean_which_normalises_to_nothing() -> None:
    ours = Preprocessing((20, 20), (20, 20), "pad", mean=(0.5, 0.2, 0.0))
    padded = ours.prepare(np.full((10, 20, 3), 255, np.uint8))
    assert padded[0, 0].tolist() == [128, 51, 0]
    assert padded[10, 10].tolist() == [255, 255, 255]


def test_preprocessing_survives_as_plain_data() -> None:
    ours = Preprocessing((20, 24), (30, 36), "pad", "box", crop_offset="down")
    assert Preprocessing.from_dict(ours.to_dict()) == ours
