"""Networks from timm: by name, from the Hub or from a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
from timm.data import resolve_model_data_config
from timm.models import group_parameters

from classifier.errors import ConfigError
from classifier.model.layer_groups import LayerGroup
from classifier.model.network import Network
from classifier.model.options import (
    MODEL_NAME,
    PRETRAINED,
    NetworkOptions,
    check_reserved,
    no_weights,
    refused_arguments,
    unavailable,
)
from classifier.preprocessing import INTERPOLATIONS, Preprocessing

# Keys of a pretrained_cfg that say where the weights were, which a rebuilt network must not need.
_LOCATION_KEYS = {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict"}
# Arguments of create_model that are no arguments of the architecture.
_NOT_TO_GIVE = {
    "model_name": "model_name", "pretrained_cfg": "model_name",
    "pretrained_cfg_overlay": "model_name", "cache_dir": "model_name",
    "features_only": "model_name", "checkpoint_path": "pretrained", "out_indices": "model_name",
}  # fmt: skip
_RESIZE_MODES = {"center": "crop", "squash": "squash", "border": "pad"}


def build(location: str, num_classes: int, options: NetworkOptions) -> Network:
    """Build a timm network.

    Args:
        location: A timm model name, `hf-hub:<org>/<name>` or `local-dir:<folder>`.
        num_classes: Outputs of the head.
        options: Weights and parts of it.

    Raises:
        ConfigError: timm knows no such model, its weights cannot be had, or it does not take an
            argument.
    """
    _check_name(location, options.pretrained)
    check_reserved(options.model_args or {}, _NOT_TO_GIVE)
    arguments = {**(options.model_args or {}), **options.rates()}
    try:
        model, arguments = _create(location, num_classes, options, arguments)
    except Exception as error:
        # timm, huggingface_hub, httpx and safetensors each raise errors of their own here.
        if arguments and (isinstance(error, TypeError) or not options.pretrained):
            raise refused_arguments(error, location, arguments) from error
        if not options.pretrained:
            raise unavailable(location, error) from error
        raise no_weights(location, error) from error
    cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in _LOCATION_KEYS}
    arguments = {**(getattr(model, "pretrained_model_args", None) or {}), **arguments}
    arguments.pop("num_classes", None)  # a saved model's own; ours is the data's
    spec = {
        "source": "timm",
        "architecture": cfg["architecture"],
        "model_args": arguments,
        "pretrained_cfg": cfg,
    }
    return Network(model, _preprocessing(model), spec, _layer_groups(model))


def rebuild(spec: Mapping[str, Any], num_classes: int) -> Network:
    """Build the architecture of a saved network, with random weights.

    Raises:
        ConfigError: what is saved is no architecture of timm, but a place where one may be.
    """
    _check_name(spec["architecture"], False)
    if ":" in spec["architecture"]:
        raise ConfigError("ckpt_path", "the network is no architecture", got=spec["architecture"])
    check_reserved(spec["model_args"], _NOT_TO_GIVE)
    model = timm.create_model(
        spec["architecture"],
        pretrained=False,
        num_classes=num_classes,
        pretrained_cfg=dict(spec["pretrained_cfg"]),
        **spec["model_args"],
    )
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    return Network(model, preprocessing, dict(spec), _layer_groups(model))


def _create(
    location: str, num_classes: int, options: NetworkOptions, arguments: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model, and the arguments that it was made with."""
    make = partial(
        timm.create_model, location, pretrained=options.pretrained, num_classes=num_classes
    )
    if options.size is None:
        return make(**arguments), arguments
    sized = {**arguments, "img_size": list(options.size)}
    try:
        return make(**sized), sized
    except TypeError as error:
        if "unexpected keyword argument 'img_size'" not in str(error):
            raise
    # A network that takes images of any size has no argument for it.
    return make(**arguments), arguments


def _check_name(location: str, pretrained: bool) -> None:
    if ":" in location:
        return
    if not timm.is_model(location.partition(".")[0]):
        raise ConfigError(
            MODEL_NAME, "timm has no such model", got=f"timm/{location}",
            remedy="See timm.list_models() for all names",
            name=f"timm/{location}",
            options=[f"timm/{name}" for name in (*timm.list_models(), *timm.list_pretrained())],
        )  # fmt: skip
    architecture, _, tag = location.partition(".")
    tags = list(timm.list_pretrained(f"{architecture}.*"))
    if tag and location not in tags:
        raise ConfigError(
            MODEL_NAME, f"timm has no weights {tag!r} for {architecture}", got=f"timm/{location}",
            remedy=f"Write one of {', '.join(tags) or architecture}",
            name=f"timm/{location}", options=[f"timm/{name}" for name in tags],
        )  # fmt: skip
    if pretrained and not tags:
        raise ConfigError(
            PRETRAINED, f"timm has no pretrained weights for {architecture}", got=True,
            remedy="Write pretrained: false",
        )  # fmt: skip


def _preprocessing(model: Any) -> Preprocessing:
    data = resolve_model_data_config(model)
    _, height, width = data["input_size"]
    crop_pct = data["crop_pct"]
    interpolation = data["interpolation"]
    return Preprocessing(
        size=(height, width),
        resize=(int(height / crop_pct), int(width / crop_pct)),
        resize_mode=_RESIZE_MODES.get(data["crop_mode"], "crop"),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        mean=tuple(data["mean"]),  # a list where it comes from a file
        std=tuple(data["std"]),
    )


def _layer_groups(model: Any) -> list[LayerGroup]:
    """By timm's own group matcher; what it cannot place comes last."""
    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, tuple | list) else [classifier]
    in_head = {id(p) for head in heads for p in head.parameters()}
    placed = group_parameters(model, model.group_matcher(coarse=False))
    group_of = {name: number for number, names in placed.items() for name in names}
    members: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in in_head:
            members.setdefault(group_of[name], []).append(name)
    return [LayerGroup(_label(names[0]), tuple(names)) for _, names in sorted(members.items())]


def _label(name: str) -> str:
    parts = name.split(".")[:-1]
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    if not parts:
        return "stem"
    return ".".join(parts[: digits[min(1, len(digits) - 1)] + 1] if digits else parts[:1])
