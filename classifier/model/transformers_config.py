"""The configuration files of a transformers model, and what the user's options change in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import cached_file

from classifier.errors import ConfigError
from classifier.model.options import IMAGE_SIZE, NetworkOptions, refused_arguments
from classifier.preprocessing import Preprocessing

_NOT_TO_GIVE = {
    "id2label": "num_classes", "label2id": "num_classes", "problem_type": "task",
    "model_type": "model_name", "architectures": "model_name", "auto_map": "model_name",
    "dtype": "model_name", "transformers_version": "model_name",
}  # fmt: skip
# What the models call a rate; the first name that a configuration has is meant.
_RATES = {
    "drop_rate": (
        "classifier_dropout", "classifier_dropout_prob", "hidden_dropout_prob", "dropout_rate",
        "hidden_dropout", "dropout",
    ),
    "drop_path_rate": ("drop_path_rate", "drop_connect_rate", "stochastic_depth_prob"),
}  # fmt: skip
# Keys that name code to fetch and run: no part of an architecture.
_CODE_KEYS = (
    "auto_map", "trust_remote_code", "custom_pipelines", "attn_implementation",
    "_attn_implementation", "experts_implementation", "_experts_implementation",
)  # fmt: skip
# PIL's resampling numbers, as a preprocessor_config.json holds them.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_ALWAYS_SQUASHED_FROM = 384  # ConvNeXT: from this size on, no crop
_HALF = [0.5, 0.5, 0.5]


def apply_options(config: PretrainedConfig, options: NetworkOptions) -> None:
    """Set the model_args and rates that the user asked for.

    Args:
        config: Changed in place.
        options: How the network is to be built.

    Raises:
        ConfigError: a value that the model does not have, or of a wrong type.
    """
    kind = str(config.model_type)
    known = [name for name in config.to_dict() if not name.startswith("_")]
    given = options.arguments(kind, known, _RATES, _NOT_TO_GIVE)
    try:
        for name, value in given.items():
            setattr(config, name, value)
    except Exception as error:  # transformers' and huggingface_hub's validation have no one class
        raise refused_arguments(error, kind, given) from error


def vision_part(config: PretrainedConfig) -> Any:
    """The configuration of what sees the images: a part of a composite model's, such as CLIP's."""
    return getattr(config, "vision_config", config)


def set_size(config: PretrainedConfig, size: tuple[int, int]) -> None:
    """Set image_size where the model has one; others take images of any size.

    Args:
        config: Changed in place.
        size: Height and width in pixels.
    """
    vision = vision_part(config)
    if getattr(vision, "image_size", None) is None:
        return
    height, width = size
    vision.image_size = height if height == width else [height, width]


def grid_of(config: PretrainedConfig) -> tuple[int, int]:
    """Patches along height and width.

    Raises:
        ConfigError: the model has no patches.
    """
    vision = vision_part(config)
    patch = getattr(vision, "patch_size", None)
    if patch is None:
        raise ConfigError(
            IMAGE_SIZE, f"the weights of {config.model_type} fit one size only",
            remedy="Write null for its own",
        )  # fmt: skip
    height, width = as_pair(vision.image_size)
    rows, columns = as_pair(patch)
    return height // rows, width // columns


def as_pair(size: Any) -> tuple[int, int]:
    """Height and width of a side, a pair, or a mapping as transformers' processors have it."""
    if isinstance(size, Mapping):
        if "height" in size:
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge") or size.get("longest_edge") or 224
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[1])
    return int(size), int(size)


def plain(config: PretrainedConfig) -> dict[str, Any]:
    """The architecture as plain data, without names of classes and places."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for key in ("_name_or_path", "id2label", "label2id", "torch_dtype", "dtype"):
        values.pop(key, None)
    return values


def without_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration without the keys that name code to fetch, at any depth."""
    return {
        key: without_code(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in _CODE_KEYS
    }


def preprocessing_of(location: str, config: PretrainedConfig) -> Preprocessing:
    """What the preprocessor_config.json beside a model says of images; without one, the usual.

    Args:
        location: `<org>/<name>` on the Hub or a local folder.
        config: The model's.

    Raises:
        OSError: the place cannot be reached.
    """
    file = cached_file(
        location, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
    )
    processor = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    default = getattr(config, "image_size", None) or 224
    size = processor.get("size", default)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    resize = as_pair(size)
    resize_mode = "crop" if edge is not None else "squash"
    if processor.get("do_center_crop", False) and "crop_size" in processor:
        crop = as_pair(processor["crop_size"])
    elif edge is not None and "crop_pct" in processor:
        # ConvNeXT's and ResNet's processor: enlarge by crop_pct, then crop back.
        crop = resize
        if edge < _ALWAYS_SQUASHED_FROM:
            enlarged = int(edge / (processor["crop_pct"] or 224 / 256))
            resize = (enlarged, enlarged)
        else:
            resize_mode = "squash"
    else:
        crop = resize
    return Preprocessing(
        size=crop,
        resize=resize,
        resize_mode=resize_mode,
        interpolation=_RESAMPLE.get(processor.get("resample", 2), "bilinear"),
        mean=tuple(processor.get("image_mean") or _HALF),
        std=tuple(processor.get("image_std") or _HALF),
        crop_offset="down",
    )
