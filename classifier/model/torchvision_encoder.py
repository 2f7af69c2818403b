"""Networks from torchvision.models: by name, with or without the name of their weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from classifier.errors import ConfigError, reason_of
from classifier.importing import parameters_of
from classifier.model.heads import inputs_of, outputs_of
from classifier.model.layer_groups import group_by_block
from classifier.model.network import Network
from classifier.model.options import (
    IMAGE_SIZE,
    MODEL_NAME,
    PRETRAINED,
    NetworkOptions,
    refused_arguments,
)
from classifier.preprocessing import Preprocessing

# Arguments of a model class that are not the user's to give: they change what it returns.
_NOT_TO_GIVE = {"progress": "pretrained", "transform_input": "pretrained", "aux_logits": "head"}
_RATES = {"drop_rate": ("dropout", "drop_rate"), "drop_path_rate": ("stochastic_depth_prob",)}


def build(location: str, num_classes: int, options: NetworkOptions) -> Network:
    """Build a torchvision network.

    Args:
        location: `resnet18`, or `resnet18.IMAGENET1K_V1` for certain weights.
        num_classes: Outputs of the head, which is new unless the weights have as many.
        options: Weights and parts of it.

    Raises:
        ConfigError: torchvision knows no such model or weights, they cannot be had, or the model
            does not take an argument.
    """
    name, weights = _weights(location)
    preprocessing = _preprocessing(weights)
    known = _parameters(name)
    arguments = options.arguments(name, known, _RATES, _NOT_TO_GIVE)
    if "image_size" in known:
        arguments["image_size"] = _side(options, preprocessing)
    if options.pretrained:
        model = _pretrained(name, weights, arguments)
        _give_classes(model, num_classes)
    else:
        model = _create(name, {**arguments, "num_classes": num_classes})
    if hasattr(model, "transform_input"):
        # Inception and GoogLeNet turn ImageNet's normalisation into this one themselves.
        preprocessing = preprocessing.normalised((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    _without_auxiliaries(model)
    spec = {"source": "torchvision", "architecture": name, "model_args": arguments}
    return Network(model, preprocessing, spec, group_by_block(model, _last_layer(model)))


def rebuild(spec: Mapping[str, Any], num_classes: int) -> Network:
    """Build the architecture of a saved network, with random weights."""
    arguments = {**spec["model_args"], "num_classes": num_classes}
    if "init_weights" in _parameters(spec["architecture"]):
        arguments["init_weights"] = False  # slow, and a checkpoint's weights take their place
    model = _create(spec["architecture"], arguments)
    _without_auxiliaries(model)
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    return Network(model, preprocessing, dict(spec), group_by_block(model, _last_layer(model)))


def _weights(location: str) -> tuple[str, Any]:
    """The model's name and the weights' entry, whose preprocessing is known without loading it."""
    name, _, tag = location.partition(".")
    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(
            MODEL_NAME, "torchvision has no such classification model",
            got=f"torchvision/{location}",
            remedy="See torchvision.models.list_models(module=torchvision.models) for all names",
            name=f"torchvision/{name}", options=[f"torchvision/{known}" for known in names],
        )  # fmt: skip
    known = models.get_model_weights(name)
    if not tag:
        return name, known.DEFAULT
    if tag not in known.__members__:
        raise ConfigError(
            MODEL_NAME, f"torchvision has no weights {tag!r} for {name}",
            got=f"torchvision/{location}", remedy=f"Write one of {', '.join(known.__members__)}",
            name=tag, options=known.__members__,
        )  # fmt: skip
    return name, known[tag]


def _parameters(name: str) -> list[str]:
    """What the class of a model takes; the function that makes it says only **kwargs."""
    builder = models.get_model_builder(name)
    known = parameters_of(inspect.signature(builder).return_annotation)
    return list(known or ())


def _side(options: NetworkOptions, preprocessing: Preprocessing) -> int:
    height, width = options.size or preprocessing.size
    if height != width:
        raise ConfigError(
            IMAGE_SIZE, "torchvision's vision transformers take square images",
            got=options.image_size, remedy=f"Write {max(height, width)}, or use one of timm",
        )  # fmt: skip
    return height


def _create(name: str, arguments: Mapping[str, Any], weights: Any = None) -> Any:
    given = dict(arguments)
    if "aux_logits" in _parameters(name) and weights is None:
        # Without a word on init_weights it warns that the default will change.
        given = {"init_weights": True, **given, "aux_logits": False}
    try:
        return models.get_model(name, weights=weights, **given)
    except (TypeError, ValueError, AssertionError) as error:
        raise refused_arguments(error, name, arguments) from error


def _pretrained(name: str, weights: Any, arguments: dict[str, Any]) -> Any:
    try:
        if "image_size" in arguments:
            num_classes = len(weights.meta["categories"])
            model = _create(name, {**arguments, "num_classes": num_classes})
            state = weights.get_state_dict(progress=False, check_hash=True)
            side = arguments["image_size"]
            model.load_state_dict(interpolate_embeddings(side, model.patch_size, state))
            return model
        return _create(name, {**arguments, "progress": False}, weights)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            PRETRAINED, f"the weights {weights} could not be loaded ({reason_of(error, 200)})",
            got=True,
            remedy="Check the network connection and model_args, or write pretrained: false",
        ) from error  # fmt: skip


def _last_layer(model: nn.Module) -> str:
    """The name of the layer that gives the logits: linear, in SqueezeNet a convolution."""
    names: list[str] = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    return names[-1]


def _give_classes(model: nn.Module, num_classes: int) -> None:
    name = _last_layer(model)
    layer: Any = model.get_submodule(name)
    if outputs_of(layer) == num_classes:
        return
    bias = layer.bias is not None
    new: nn.Module
    if isinstance(layer, nn.Linear):
        new = nn.Linear(inputs_of(layer), num_classes, bias=bias)
    else:
        new = nn.Conv2d(inputs_of(layer), num_classes, layer.kernel_size, bias=bias)
    model.set_submodule(name, new)


def _without_auxiliaries(model: Any) -> None:
    """Let a model return logits alone, of images that are normalised as its weights want them."""
    if hasattr(model, "transform_input"):
        model.transform_input = False
        model.aux_logits = False
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)


def _preprocessing(weights: Any) -> Preprocessing:
    transform = weights.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    return Preprocessing(
        size=(crop, crop),
        resize=(resize, resize),
        resize_mode="crop",
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
