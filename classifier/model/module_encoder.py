"""Networks of the user's own: any torch.nn.Module by its import path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from classifier.config import TRUSTED_PACKAGES
from classifier.errors import ConfigError
from classifier.importing import import_path, parameters_of
from classifier.model.layer_groups import group_by_block
from classifier.model.network import Network
from classifier.model.options import (
    MODEL_ARGS,
    MODEL_NAME,
    NetworkOptions,
    refused_arguments,
)
from classifier.preprocessing import Preprocessing

log = logging.getLogger(__name__)

_RATES = {
    "drop_rate": ("drop_rate", "dropout"),
    "drop_path_rate": ("drop_path_rate", "stochastic_depth_prob"),
}


def build(class_path: str, num_classes: int, options: NetworkOptions) -> Network:
    """Build a network from a class.

    Args:
        class_path: A torch.nn.Module whose __init__ takes num_classes and whose forward takes
            normalised images (N, 3, H, W) and gives logits (N, num_classes). Its head is the
            attribute `head`, or its last linear layer. A class attribute or attribute
            `preprocessing` (a Preprocessing or a mapping of its fields) or `image_size` says what
            it expects of an image.
        num_classes: Outputs of the head.
        options: `pretrained`, `image_size` and the rates are passed on where __init__ takes them.

    Raises:
        ConfigError: no such class, no module, no head, or an argument that it does not take.
    """
    cls = _class(class_path)
    known = parameters_of(cls)
    arguments = _arguments(class_path, known, options)
    passed = {**arguments}
    if known is not None and "pretrained" in known:
        passed["pretrained"] = options.pretrained
    elif options.pretrained:
        log.info("%s: its weights are those that its __init__ gives it", class_path)
    model = _create(cls, class_path, num_classes, passed)
    spec = {"source": "module", "class_path": class_path, "model_args": arguments}
    groups = group_by_block(model, _head_name(model, class_path))
    return Network(model, _preprocessing(model), spec, groups)


def rebuild(spec: Mapping[str, Any], num_classes: int) -> Network:
    """Build the architecture of a saved network, with random weights.

    The spec of a checkpoint is data. Of what it names, only modules of trusted packages are
    imported; the command line has imported what `--allow_module` admits, and Python code imports
    its own modules before it loads a checkpoint.

    Raises:
        ConfigError: the class is neither of a trusted package nor imported.
    """
    class_path = str(spec["class_path"])
    module = class_path.rpartition(".")[0]
    if module.partition(".")[0] not in TRUSTED_PACKAGES and module not in sys.modules:
        raise ConfigError(
            "ckpt_path", "the checkpoint names code outside the trusted packages", got=class_path,
            remedy=f"If you trust it, import {module} before, or add --allow_module on the "
            "command line",
        )  # fmt: skip
    cls = _class(class_path)
    arguments = dict(spec["model_args"])
    if "pretrained" in (parameters_of(cls) or ()):
        arguments["pretrained"] = False
    model = _create(cls, class_path, num_classes, arguments)
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    groups = group_by_block(model, _head_name(model, class_path))
    return Network(model, preprocessing, dict(spec), groups)


def _class(class_path: str) -> type[nn.Module]:
    found = import_path(class_path, MODEL_NAME)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    raise ConfigError(
        MODEL_NAME, "is no torch.nn.Module", got=class_path,
        remedy="Write the import path of a class whose forward takes images and gives logits",
    )  # fmt: skip


def _arguments(
    class_path: str, known: Mapping[str, bool] | None, options: NetworkOptions
) -> dict[str, Any]:
    """What the module is made with, besides num_classes; plain data."""
    if known is None:  # **kwargs takes anything
        return {**(options.model_args or {}), **options.rates()}
    given = options.arguments(class_path, known, _RATES)
    if options.size is not None and "image_size" in known:
        height, width = options.size
        given["image_size"] = height if height == width else [height, width]
    elsewhere = (*given, "num_classes", "pretrained")
    missing = [name for name, needed in known.items() if needed and name not in elsewhere]
    if missing:
        raise ConfigError(
            f"{MODEL_ARGS}.{missing[0]}", "missing", remedy=f"{class_path} cannot do without it"
        )
    return given


def _create(
    cls: type[nn.Module], class_path: str, num_classes: int, arguments: Mapping[str, Any]
) -> nn.Module:
    try:
        return cls(num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        if "unexpected keyword argument 'num_classes'" in str(error):
            raise ConfigError(
                MODEL_NAME, "its __init__ takes no num_classes", got=class_path,
                remedy="Let it take num_classes, the number of logits",
            ) from error  # fmt: skip
        raise refused_arguments(error, class_path, arguments) from error


def _head_name(model: nn.Module, class_path: str) -> str:
    if isinstance(getattr(model, "head", None), nn.Module):
        return "head"
    linear: list[str] = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
    ]
    if not linear:
        raise ConfigError(
            MODEL_NAME, "the module has neither an attribute head nor a linear layer",
            got=class_path, remedy="Call its last layer head",
        )  # fmt: skip
    return linear[-1]


def _preprocessing(model: nn.Module) -> Preprocessing:
    stated = getattr(model, "preprocessing", None)
    if isinstance(stated, Preprocessing):
        return stated
    if isinstance(stated, Mapping):
        return Preprocessing.from_dict(stated)
    size: Any = getattr(model, "image_size", None)
    if size is None:
        return Preprocessing()
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocessing().at_size((int(height), int(width)))
