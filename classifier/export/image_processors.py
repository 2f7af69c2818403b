"""The preparation of images in the words of timm and transformers, pixel for pixel the same.

tests/test_preprocessing.py holds that the libraries do what is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from classifier.errors import ConfigError
from classifier.preprocessing import Preprocessing

RESIZE_MODE = "data.init_args.resize_mode"
_CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
# Pillow's numbers of its filters.
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_MOST_DIGITS = 9
# transformers 4 reads the first file, which names a class whose default there is Pillow.
# transformers 5 prefers torchvision for it, which differs by up to 2 of 255 in some pixels. It
# looks into the second file first, where its own processor on Pillow can be named.
_FOR_4, _FOR_5 = "preprocessor_config.json", "processor_config.json"
_CLASS_4, _CLASS_5 = "CLIPImageProcessor", "PilBackend"


def timm_data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm's create_transform wants to know.

    Raises:
        ConfigError: timm has no such preparation.
    """
    _check_own(preprocessing)
    if preprocessing.crop_offset != "even" and not _is_whole(preprocessing):
        raise _not_expressible("timm crops at the even offset", preprocessing)
    return {
        "input_size": (3, *preprocessing.size),
        "crop_pct": _crop_fraction(preprocessing),
        "crop_mode": _CROP_MODES[preprocessing.resize_mode],
        "interpolation": preprocessing.interpolation,
        "mean": tuple(preprocessing.mean),
        "std": tuple(preprocessing.std),
    }


def _crop_fraction(preprocessing: Preprocessing) -> float:
    """The shortest number by which timm comes from the size of the crop to that before it."""
    for fraction in _fractions(preprocessing):
        sides = zip(preprocessing.size, preprocessing.resize, strict=True)
        if fraction > 0 and all(int(side / fraction) == before for side, before in sides):
            return fraction
    raise _not_expressible("timm reduces both sides by one fraction", preprocessing)


def _fractions(preprocessing: Preprocessing) -> Iterator[float]:
    sides = list(zip(preprocessing.size, preprocessing.resize, strict=True))
    low = max(side / (before + 1) for side, before in sides)
    high = min(side / before for side, before in sides)
    for digits in range(1, _MOST_DIGITS):
        yield from (round(value, digits) for value in (high, (low + high) / 2))
    yield from (high, (low + high) / 2)


def pillow_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """Files of a transformers image processor that works with Pillow, in transformers 4 and 5.

    Returns:
        Their contents by their names.

    Raises:
        ConfigError: transformers has no such preparation.
    """
    _check_own(preprocessing)
    (height, width), (to_height, to_width) = preprocessing.size, preprocessing.resize
    whole, mode = _is_whole(preprocessing), preprocessing.resize_mode
    if mode == "pad":
        raise _not_expressible("transformers' processors do not pad", preprocessing)
    if not whole and preprocessing.crop_offset != "down":
        raise _not_expressible("transformers crops at the smaller offset", preprocessing)
    if mode == "crop" and to_height != to_width:
        raise _not_expressible("transformers scales the shorter side to one length", preprocessing)
    squashed = {"height": to_height, "width": to_width}
    steps = {
        "size": {"shortest_edge": to_height} if mode == "crop" else squashed,
        "do_center_crop": not whole,
        "crop_size": {"height": height, "width": width},
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    return {
        _FOR_4: {"image_processor_type": _CLASS_4, **steps},
        _FOR_5: {"image_processor": {"image_processor_type": _CLASS_5, **steps}},
    }


def _check_own(preprocessing: Preprocessing) -> None:
    if preprocessing.steps:
        raise ConfigError(
            "data.init_args.augmentations.val", "is no preparation that Hugging Face's libraries "
            "know, which resize with Pillow", remedy="Export to onnx, torch_export or torchscript, "
            "or write null: --data.init_args.augmentations.val null",
        )  # fmt: skip


def _is_whole(preprocessing: Preprocessing) -> bool:
    """Whether nothing is cropped, of an image of any shape."""
    return preprocessing.resize_mode != "crop" and preprocessing.resize == preprocessing.size


def _not_expressible(reason: str, preprocessing: Preprocessing) -> ConfigError:
    shown = f"{preprocessing.resize_mode} from {preprocessing.resize} to {preprocessing.size}"
    return ConfigError(
        RESIZE_MODE, f"{reason}, so that a pipeline would prepare images otherwise", got=shown,
        remedy="Train with resize_mode: squash, or write --export onnx, torch_export, torchscript "
        "or safetensors",
    )  # fmt: skip
