"""The configuration of a transformers model, and what the user's options change in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from classifier.errors import ConfigError
from classifier.model.options import (
    IMAGE_SIZE,
    NetworkOptions,
    check_reserved,
    refused_arguments,
    unknown_argument,
)

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


def apply_options(config: PretrainedConfig, options: NetworkOptions) -> None:
    """Set what the user asked for.

    Args:
        config: Changed in place.
        options: model_args, rates and image_size count.

    Raises:
        ConfigError: a value that the model does not have, or of a wrong type.
    """
    given = dict(options.model_args or {})
    check_reserved(given, _NOT_TO_GIVE)
    known = [name for name in config.to_dict() if not name.startswith("_")]
    free = [name for name in known if name not in _NOT_TO_GIVE]
    for name in given:
        if name not in free:
            raise unknown_argument(name, str(config.model_type), free)
    for rate, value in options.rates().items():
        found = [name for name in _RATES[rate] if name in known]
        if not found:
            raise unknown_argument(rate, str(config.model_type))
        given[found[0]] = value
    try:
        for name, value in given.items():
            setattr(config, name, value)
    except Exception as error:  # transformers' and huggingface_hub's validation have no one class
        raise refused_arguments(error, str(config.model_type), given) from error
    if options.size is not None:
        set_size(config, options.size)


def set_size(config: PretrainedConfig, size: tuple[int, int]) -> None:
    """Set image_size where the model has one; others take images of any size.

    Args:
        config: Changed in place.
        size: Height and width in pixels.
    """
    vision = getattr(config, "vision_config", config)
    if getattr(vision, "image_size", None) is None:
        return
    height, width = size
    vision.image_size = height if height == width else [height, width]


def grid_of(config: PretrainedConfig) -> tuple[int, int]:
    """Patches along height and width.

    Raises:
        ConfigError: the model has no patches.
    """
    vision = getattr(config, "vision_config", config)
    patch = getattr(vision, "patch_size", None)
    if patch is None:
        raise ConfigError(
            IMAGE_SIZE, f"the weights of {config.model_type} fit one size only",
            remedy="Write null for its own",
        )  # fmt: skip
    height, width = as_pair(vision.image_size)
    rows, columns = as_pair(patch)
    return height // rows, width // columns


def as_pair(value: Any) -> tuple[int, int]:
    """Height and width of a side or a pair."""
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else (value, value)


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
