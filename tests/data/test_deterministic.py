"""A user's evaluation transforms in numpy, against Albumentations."""

from __future__ import annotations

from inspect import signature
from typing import Any

import albumentations as A
import numpy as np
import pytest
from albumentations.pytorch import ToTensorV2
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.data.augmentations import build_pipeline
from classifier.data.deterministic import preprocessing_of
from classifier.errors import ConfigError, RunError
from classifier.preprocessing import Pixels, Preprocessing

OWN = Preprocessing((28, 36), (32, 40), "crop", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
KEY = "data.init_args.augmentations.val"
SHAPES = ((28, 36), (40, 40), (61, 83), (200, 133), (17, 90), (301, 299), (5, 4))
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
LISTS: dict[str, list[Any]] = {
    "nothing": [],
    "resize": [A.Resize(32, 24)],
    "resize by areas": [A.Resize(32, 24, interpolation=3)],
    "resize shrinks by areas": [A.Resize(32, 24, area_for_downscale="image")],
    "resize by copies": [A.Resize(32, 24, interpolation=0)],
    "resize by lanczos": [A.Resize(32, 24, interpolation=4)],
    "shorter side": [A.SmallestMaxSize(40), A.CenterCrop(32, 24)],
    "shorter side by areas": [
        A.SmallestMaxSize([37], area_for_downscale="image_mask"),
        A.CenterCrop(32, 24),
    ],
    "both sides cover": [A.SmallestMaxSize(max_size_hw=(40, 30)), A.CenterCrop(33, 25)],
    "height alone": [A.SmallestMaxSize(max_size_hw=(40, None)), A.CenterCrop(32, 64, True)],
    "longer side, padded": [A.LongestMaxSize(32), A.PadIfNeeded(32, 32, fill=(10, 99.5, 300))],
    "both sides fit": [A.LongestMaxSize(max_size_hw=(32, 40)), A.CenterCrop(32, 40, True, fill=7)],
    "width alone": [A.LongestMaxSize(max_size_hw=(None, 40)), A.CenterCrop(32, 40, True)],
    "padded elsewhere": [
        A.LongestMaxSize(30),
        A.PadIfNeeded(33, 35, position="bottom_right"),
    ],
    "padded at the top": [A.LongestMaxSize(30), A.PadIfNeeded(33, 35, position="top_right")],
    "padded crop": [A.CenterCrop(50, 40, pad_if_needed=True, pad_position="bottom_left", fill=9)],
    "divisor": [
        A.LongestMaxSize(30),
        A.PadIfNeeded(None, None, pad_height_divisor=32, pad_width_divisor=32),
    ],
    "left open": [A.LongestMaxSize(70)],
    "left open by a padding": [A.PadIfNeeded(40, 40)],
    "nested": [A.Compose([A.Resize(40, 40), A.Sequential([A.CenterCrop(32, 24)], p=1.0)])],
    "floats": [A.Resize(32, 24), A.ToFloat()],
    "floats of another range": [A.Resize(32, 24), A.ToFloat(max_value=100.0), ToTensorV2()],
    "normalised": [A.Resize(40, 40), A.Normalize(MEAN, STD), A.CenterCrop(32, 24), ToTensorV2()],
    "normalised by one number": [A.Resize(32, 24), A.Normalize(0.5, 0.25, max_pixel_value=128)],
    "normalised floats": [A.Resize(32, 24), A.ToFloat(), A.Normalize(MEAN, STD, 1.0)],
    "floats of the normalised": [A.Resize(32, 24), A.Normalize(MEAN, STD), A.ToFloat()],
} | {
    f"border {mode}": [
        A.LongestMaxSize(30),
        A.PadIfNeeded(40, 44, border_mode=mode),
    ]
    for mode in range(5)
}  # fmt: skip


def noise(height: int, width: int) -> Pixels:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(transform: Any) -> dict[str, Any]:
    """A transform as a checkpoint's configuration holds it."""
    arguments: dict[str, Any] = {"p": transform.p}
    if hasattr(transform, "transforms"):
        arguments["transforms"] = [spec(inner) for inner in transform.transforms]
    else:
        written = transform.get_transform_init_args()
        names = signature(type(transform)).parameters.keys() & written
        arguments |= {name: written[name] for name in sorted(names)}
    return {"class_path": f"albumentations.{type(transform).__name__}", "init_args": arguments}


def by_albumentations(transforms: list[Any], pixels: Pixels) -> Any:
    """(H, W, 3) as the network takes it in this program."""
    image = build_pipeline(transforms, OWN, KEY)[0](image=pixels)["image"].numpy()
    image = image.transpose(1, 2, 0)
    if image.dtype != np.uint8:
        return image
    return (image / 255.0 - np.array(OWN.mean)) / np.array(OWN.std)


@pytest.mark.parametrize("name", LISTS)
def test_images_come_out_as_in_albumentations(name: str) -> None:
    found = preprocessing_of(LISTS[name], OWN, KEY)
    assert found == preprocessing_of([spec(item) for item in LISTS[name]], OWN, KEY)
    assert Preprocessing.from_dict(found.to_dict()) == found
    for shape in SHAPES:
        pixels = noise(*shape)
        prepared = found.prepare(pixels)
        assert prepared.shape == (*found.size, 3)
        ours = (prepared / 255.0 - np.array(found.mean)) / np.array(found.std)
        np.testing.assert_allclose(ours, by_albumentations(LISTS[name], pixels), 0, 2e-5)


def test_lists_that_are_not_written_are_the_encoder_s_own() -> None:
    assert preprocessing_of(None, OWN, KEY) is OWN
    assert preprocessing_of([], OWN, KEY) == OWN
    assert "steps" not in OWN.to_dict()


def test_defaults_are_those_of_albumentations() -> None:
    for name, arguments in {
        "Resize": {"height": 9, "width": 8}, "SmallestMaxSize": {"max_size": 9},
        "LongestMaxSize": {"max_size": 9}, "CenterCrop": {"height": 9, "width": 8},
        "PadIfNeeded": {}, "Normalize": {}, "ToFloat": {}, "ToTensorV2": {},
    }.items():  # fmt: skip
        kind = ToTensorV2 if name == "ToTensorV2" else getattr(A, name)
        first = [{"class_path": "albumentations.Resize", "init_args": {"height": 30, "width": 30}}]
        given = [*first, {"class_path": f"albumentations.{name}", "init_args": arguments}]
        assert preprocessing_of(given, OWN, KEY) == preprocessing_of(
            [A.Resize(30, 30), kind(**arguments)], OWN, KEY
        )


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        ([A.Resize(32, 32), A.GaussianBlur()], "GaussianBlur, which is done by chance"),
        ([A.GaussianBlur(p=1.0)], "GaussianBlur, which is none of CenterCrop, LongestMaxSize"),
        ([A.Resize(32, 32, p=0.5)], r"Resize, which is done by chance \(p: 0.5\)"),
        ([A.Resize(32, 32, interpolation=2)], "Resize, whose interpolation 2 is none of 0"),
        ([A.SmallestMaxSize([30, 40])], "SmallestMaxSize, which draws its size"),
        ([A.PadIfNeeded(9, 9, position="random")], "PadIfNeeded, whose position is random"),
        ([A.Normalize(normalization="image")], "Normalize, which normalises every image by itself"),
        ([A.Normalize(), A.Resize(9, 9)], "Resize, which stands behind the normalisation"),
        ([A.OneOf([A.Resize(9, 9)], p=1.0)], "OneOf, which is none of"),
        ([{"class_path": "mine.Resize"}], "mine.Resize, which is none of"),
    ],
)
def test_what_cannot_be_carried_is_named(transforms: list[Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        preprocessing_of(transforms, OWN, KEY)
    assert "cannot be done without Albumentations. Write null" in str(caught.value)
    assert str(caught.value).endswith("--data.init_args.augmentations.val null.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"height": 9}, "missing"), ({"height": "x", "width": 9}, "invalid literal")],
)
def test_what_cannot_be_read_is_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"albumentations.Resize cannot be read \(.*{said}"):
        preprocessing_of(
            [{"class_path": "albumentations.Resize", "init_args": arguments}], OWN, KEY
        )


def test_remedy_is_the_caller_s() -> None:
    with pytest.raises(ConfigError, match=r"without Albumentations\. Ask main\.py\.$"):
        preprocessing_of([A.GaussianBlur(p=1.0)], OWN, KEY, remedy="Ask main.py")


def test_reading_makes_no_image_of_the_size_that_is_asked_for() -> None:
    assert preprocessing_of([A.Resize(10**6, 10**6)], OWN, KEY).size == (10**6, 10**6)


def test_sizes_that_differ_are_told_where_nothing_can_follow() -> None:
    with pytest.raises(ConfigError, match="normalises images that are not all of one size"):
        preprocessing_of([A.SmallestMaxSize(32), A.Normalize()], OWN, KEY)
    with pytest.raises(ConfigError, match="61 x 83 pixels is smaller than the crop of 224 x 224"):
        preprocessing_of([A.CenterCrop(224, 224)], OWN, KEY)


def test_image_that_is_smaller_than_the_crop_is_told() -> None:
    found = preprocessing_of([A.CenterCrop(20, 20)], OWN, KEY)
    with pytest.raises(RunError, match="10 x 40 pixels is smaller than the crop of 20 x 20"):
        found.prepare(noise(10, 40))


SIDE = st.integers(1, 120)
LENGTH = st.integers(1, 60)


@given(height=SIDE, width=SIDE, wanted=st.tuples(LENGTH, LENGTH), covers=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_image_is_scaled_to_the_size_of_albumentations(
    height: int, width: int, wanted: tuple[int, int], covers: bool
) -> None:
    kind = A.SmallestMaxSize if covers else A.LongestMaxSize
    pixels = noise(height, width)
    for transform in (
        kind(wanted[0]),
        kind(max_size_hw=wanted),
        kind(max_size_hw=(None, wanted[1])),
    ):
        (step,) = preprocessing_of([transform], OWN, KEY).steps
        expected = transform(image=pixels)["image"]
        assert step.size_of(height, width) == expected.shape[:2]
        np.testing.assert_array_equal(step(pixels), expected)
