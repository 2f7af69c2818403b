"""The preparation of images as timm and transformers are told of it, carried out by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from transformers import AutoImageProcessor

from classifier.errors import ConfigError
from classifier.export.image_processors import pillow_processor, timm_data_config
from classifier.preprocessing import INTERPOLATIONS, Pixels, Preprocessing

SIDES = st.integers(8, 60)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def noise(height: int, width: int) -> Pixels:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(pixels: Pixels) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@given(size=SIDES, more=st.integers(0, 20), height=SIDES, width=SIDES)
@settings(max_examples=8, deadline=None)
def test_timm_prepares_as_it_is_told(
    mode: str, interpolation: str, size: int, more: int, height: int, width: int
) -> None:
    before = size + (more if mode != "pad" else 0)
    ours = Preprocessing((size, size), (before, before), mode, interpolation, MEAN, STD)
    transform = create_transform(**timm_data_config(ours), is_training=False)
    pixels = noise(height, width)
    found = transform(Image.fromarray(pixels)).numpy()
    np.testing.assert_allclose(found, normalised(ours.prepare(pixels)), atol=1e-5)


@given(size=st.integers(1, 1500), more=st.integers(0, 1500))
@settings(max_examples=300, deadline=None)
def test_any_square_crop_has_a_fraction(size: int, more: int) -> None:
    ours = Preprocessing((size, size), (size + more, size + more))
    fraction = timm_data_config(ours)["crop_pct"]
    assert int(size / fraction) == size + more


def test_fraction_is_the_usual_one() -> None:
    assert timm_data_config(Preprocessing())["crop_pct"] == 0.875
    assert timm_data_config(Preprocessing(resize=(224, 224)))["crop_pct"] == 1.0
    assert timm_data_config(Preprocessing(resize=(235, 235)))["crop_pct"] == 0.95


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(
    size=st.tuples(SIDES, SIDES), more=st.integers(0, 20), height=SIDES, width=SIDES,
    mode=st.sampled_from(["crop", "squash"]), whole=st.booleans(),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_transformers_prepares_as_it_is_told(
    interpolation: str, size: tuple[int, int], more: int, height: int, width: int, mode: str,
    whole: bool, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    assume(not (whole and mode == "crop"))
    before = size if whole else (max(size) + more, max(size) + more)
    ours = Preprocessing(size, before, mode, interpolation, MEAN, STD, crop_offset="down")
    folder = tmp_path_factory.mktemp("processor")
    for name, content in pillow_processor(ours).items():
        (folder / name).write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    pixels = noise(height, width)
    processor = AutoImageProcessor.from_pretrained(Path(folder))
    found = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(found, normalised(ours.prepare(pixels)), atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        (Preprocessing(resize_mode="pad", resize=(224, 224)), "do not pad"),
        (Preprocessing(crop_offset="even"), "crops at the smaller offset"),
        (Preprocessing(resize=(250, 256), crop_offset="down"), "scales the shorter side to one"),
    ],
)
def test_transformers_is_told_nothing_that_it_would_do_otherwise(
    ours: Preprocessing, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        pillow_processor(ours)
    assert caught.value.key == "data.init_args.resize_mode"


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        (Preprocessing(crop_offset="down"), "crops at the even offset"),
        (Preprocessing(resize=(230, 256)), "reduces both sides by one fraction"),
    ],
)
def test_timm_is_told_nothing_that_it_would_do_otherwise(ours: Preprocessing, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        timm_data_config(ours)
    assert caught.value.key == "data.init_args.resize_mode"
