"""Optimizers by name: torch's, timm's, or any import path."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path
from classifier.model.parameter_groups import (
    GROUP_KEYS,
    OPTIMIZER,
    RATES,
    check_group_keys,
    parameter_groups,
)

log = logging.getLogger(__name__)

_TORCH_OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}


# What stands where optimizer_config says nothing.
DEFAULT_OPTIMIZER = {"name": "AdamW", "lr": 3e-4, "weight_decay": 0.05}


def completed(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """`optimizer_config` with its name: without one it is AdamW with the default's values.

    Args:
        config: As written; a key of `parameter_groups` that is null counts as left out.
    """
    given = {k: v for k, v in (config or {}).items() if v is not None or k not in GROUP_KEYS}
    return given if "name" in given else {**DEFAULT_OPTIMIZER, **given}


def build_optimizer(
    module: nn.Module,
    config: Mapping[str, Any],
    *,
    frozen_too: bool = False,
    fused: bool = False,
) -> Optimizer:
    """The optimizer that a configuration names, over the trainable parameters.

    Biases and normalisation weights (tensors of at most one dimension) get no weight decay, as in
    timm and in Hugging Face's Trainer, unless `decay_norms_and_biases` says so.

    Args:
        module: The network.
        config: `name` and the optimizer's own arguments. A name with capitals is a class of
            torch.optim (`AdamW`), one in lower case an optimizer of timm (`adamw`, `lamb`) with
            the defaults of timm's factory, one with a dot an import path. Beside them
            `lr_backbone`, `lr_head`, `layer_decay` and `decay_norms_and_biases`, see
            `parameter_groups`.
        frozen_too: Take parameters with requires_grad=False as well: they will be trained later.
        fused: Update all parameters by one kernel, where the optimizer has one and the user asks
            for no other way.

    Raises:
        ConfigError: unknown name, unknown argument, or a value that the optimizer refuses.
    """
    arguments = {key: value for key, value in config.items() if key not in ("name", *GROUP_KEYS)}
    make = _optimizer_class(config)
    check_arguments(make, arguments, OPTIMIZER, hidden=("params",), beside=GROUP_KEYS)
    check_group_keys(config)
    lr = arguments.get("lr", _own_default(make, "lr"))
    weight_decay = arguments.get("weight_decay", _own_default(make, "weight_decay") or 0.0)
    groups = parameter_groups(
        module, config, lr=lr, weight_decay=weight_decay, frozen_too=frozen_too
    )
    if fused and _has_fused(make, arguments):
        arguments["fused"] = True
    try:
        return make(groups, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            OPTIMIZER, f"{config['name']} refuses its arguments: {reason}", got=arguments,
            remedy="Correct the value",
        ) from error  # fmt: skip


def _has_fused(make: Callable[..., Optimizer], arguments: Mapping[str, Any]) -> bool:
    others = ("fused", "foreach", "capturable", "differentiable")
    return "fused" in inspect.signature(make).parameters and not any(
        name in arguments for name in others
    )


def highest_rate(config: Mapping[str, Any]) -> float | None:
    """The learning rate of the parameters that learn fastest, or None where none is written.

    Args:
        config: A completed `optimizer_config`.
    """
    used = rate_keys(config)
    return max(config[key] for key in used) if used else None


def with_highest_rate(config: Mapping[str, Any], rate: float) -> dict[str, float]:
    """The learning rates of a configuration, in proportion, so that the highest is `rate`.

    Args:
        config: A completed `optimizer_config`.
        rate: Above 0.

    Returns:
        A new value for each of `lr`, `lr_backbone` and `lr_head` that takes effect.
    """
    highest = highest_rate(config)
    if not highest:
        return {"lr": rate}
    return {key: rate * (config[key] / highest) for key in rate_keys(config)}


def rate_keys(config: Mapping[str, Any]) -> list[str]:
    """Which of lr, lr_backbone and lr_head a configuration has that some parameter learns at."""
    both = "lr_backbone" in config and "lr_head" in config
    return [key for key in RATES if key in config and not (both and key == "lr")]


def _own_default(make: Callable[..., Optimizer], name: str) -> Any:
    """What an optimizer takes where an argument is not given; None where it has no number."""
    own = inspect.signature(make).parameters.get(name)
    default = None if own is None else own.default
    return default if isinstance(default, int | float | torch.Tensor) else None


def _optimizer_class(config: Mapping[str, Any]) -> Callable[..., Optimizer]:
    from timm.optim import list_optimizers

    name = config.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"{OPTIMIZER}.name", "must be the name of an optimizer", got=name,
            remedy="Write for example name: AdamW",
        )  # fmt: skip
    if name in _TORCH_OPTIMIZERS:
        return _TORCH_OPTIMIZERS[name]
    if name in list_optimizers():
        return _timm_optimizer(name)
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


def _timm_optimizer(name: str) -> Callable[..., Optimizer]:
    """An optimizer of timm with what timm's own factory gives it where nothing is said.

    That is a momentum of 0.9 for those that have one, without which `sgd`, which is Nesterov's,
    could not be, and no weight decay.

    Source: timm.optim.create_optimizer_v2.
    """
    from timm.optim import get_optimizer_class, get_optimizer_info

    info = get_optimizer_info(name)
    cls: Any = get_optimizer_class(info, bind_defaults=False)
    defaults: dict[str, Any] = {"weight_decay": 0.0}
    if info.has_momentum:
        defaults["momentum"] = 0.9
    defaults |= info.defaults or {}

    def make(params: Any, **arguments: Any) -> Optimizer:
        optimizer: Optimizer = cls(params, **{**defaults, **arguments})
        return optimizer

    own = inspect.signature(cls)
    parameters = [
        p.replace(default=defaults.get(p.name, p.default)) for p in own.parameters.values()
    ]
    make.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    make.__name__ = name
    return make
