"""Optimizers by name: torch's, timm's, or any import path."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path

log = logging.getLogger(__name__)

OPTIMIZER = "model.init_args.optimizer_config"
_TORCH_OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}


def build_optimizer(module: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that a configuration names, over the trainable parameters.

    Biases and normalisation weights (tensors of at most one dimension) get no weight decay, as in
    timm and in Hugging Face's Trainer.

    Args:
        module: The network; parameters with requires_grad=False are left out.
        config: `name` and the optimizer's own arguments. A name with capitals is a class of
            torch.optim (`AdamW`), one in lower case an optimizer of timm (`adamw`, `lamb`), one
            with a dot an import path.

    Raises:
        ConfigError: unknown name, unknown argument, or a value that the optimizer refuses.

    Source: no decay on biases and gains, He et al., "Bag of Tricks for Image Classification with
        Convolutional Neural Networks", CVPR 2019, section 3.1.
    """
    arguments = {key: value for key, value in config.items() if key != "name"}
    make = _optimizer_class(config)
    check_arguments(make, arguments, OPTIMIZER, hidden=("params",))
    for key in ("lr", "weight_decay"):
        if not isinstance(arguments.get(key, 0.0), int | float | torch.Tensor):
            raise ConfigError(f"{OPTIMIZER}.{key}", "must be a number", got=arguments[key])
    trainable = [p for p in module.parameters() if p.requires_grad]
    own_default = inspect.signature(make).parameters.get("weight_decay")
    default = own_default.default if own_default is not None else 0.0
    groups = _decay_groups(trainable, arguments.get("weight_decay", default))
    try:
        return make(groups, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            OPTIMIZER, f"{config['name']} refuses its arguments: {reason}", got=arguments,
            remedy="Correct the value",
        ) from error  # fmt: skip


def _decay_groups(parameters: Iterable[nn.Parameter], weight_decay: Any) -> list[dict[str, Any]]:
    parameters = list(parameters)
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    if not weight_decay or not decayed or not others:
        return [{"params": parameters}]
    return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]


def _optimizer_class(config: Mapping[str, Any]) -> Callable[..., Optimizer]:
    from timm.optim import get_optimizer_class, list_optimizers

    name = config.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"{OPTIMIZER}.name", "must be the name of an optimizer", got=name,
            remedy="Write for example name: AdamW",
        )  # fmt: skip
    if name in _TORCH_OPTIMIZERS:
        return _TORCH_OPTIMIZERS[name]
    if name in list_optimizers():
        info_class: Any = get_optimizer_class(name, bind_defaults=False)
        bound: Any = get_optimizer_class(name, bind_defaults=True)
        defaults = dict(getattr(bound, "keywords", {}))

        def make(params: Any, **arguments: Any) -> Optimizer:
            optimizer: Optimizer = info_class(params, **{**defaults, **arguments})
            return optimizer

        make.__signature__ = inspect.signature(info_class)  # type: ignore[attr-defined]
        make.__name__ = name
        return make
    if "." in name:
        found = import_path(name, f"{OPTIMIZER}.name")
        if isinstance(found, type) and issubclass(found, Optimizer):
            return found
        raise ConfigError(
            f"{OPTIMIZER}.name", "is no torch.optim.Optimizer", got=name,
            remedy="Write the import path of an optimizer class",
        )  # fmt: skip
    raise ConfigError(
        f"{OPTIMIZER}.name", "unknown optimizer", got=name,
        remedy="Write a class of torch.optim, a name of timm.optim, or an import path",
        name=name, options=[*_TORCH_OPTIMIZERS, *list_optimizers()],
    )  # fmt: skip
