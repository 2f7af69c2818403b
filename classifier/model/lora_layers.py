"""Which layers of an encoder get an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from classifier.errors import ConfigError
from classifier.model.lora_config import LORA, peft_config

if TYPE_CHECKING:
    from classifier.model.encoders import Network

_ALL_LINEAR = "all-linear"


def chosen_layers(network: Network, config: Mapping[str, Any]) -> list[str]:
    """Names of the layers that get an adapter, within `Network.model`.

    Args:
        network: Without adapters.
        config: As `check_lora` lets it pass.

    Raises:
        ConfigError: a name that no layer has, or a layer beside which an adapter would do nothing.
    """
    layers = _layers(network)
    called = _called(network, layers)
    targets = config.get("target_modules")
    if targets is None or targets == _ALL_LINEAR:
        usual = [n for n in layers if n in called and isinstance(layers[n], nn.Linear)]
        targets = usual if targets == _ALL_LINEAR else [n for n in usual if _is_attention(n)]
        if not targets:
            raise ConfigError(
                LORA, f"{type(network.model).__name__} has no linear layers of an attention that "
                "could be adapted by default",
                remedy=f"Name others in target_modules: it has {_listed(called)}",
            )  # fmt: skip
    _check_names(targets, layers, called)
    chosen = _matching({**config, "target_modules": targets}, layers)
    unused = [name for name in chosen if name not in called]
    if not chosen or unused:
        problem = "leaves no layer" if not chosen else (
            f"names {unused[0]}, whose weight is used without calling the layer, so that an "
            "adapter beside it would do nothing"
        )  # fmt: skip
        raise ConfigError(
            f"{LORA}.target_modules", problem, got=config.get("target_modules"),
            remedy=f"It can be {_listed(called)}",
        )  # fmt: skip
    return chosen


def _layers(network: Network) -> dict[str, nn.Module]:
    """The encoder's layers that may have an adapter."""
    encoder = {name for group in network.layer_groups() for name in group.parameters}
    return {
        name: layer
        for name, layer in network.model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and f"model.{name}.weight" in encoder
    }


def _called(network: Network, layers: Mapping[str, nn.Module]) -> list[str]:
    """Those that run as layers. Some encoders take a layer's weight alone.

    timm's BEiT does so with qkv, torchvision's Swin with all of its attention, and
    nn.MultiheadAttention with out_proj. peft would put adapters there that never run.
    """
    found: dict[str, None] = {}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: found.setdefault(name))
        for name, layer in layers.items()
    ]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, *network.preprocessing.size))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return [name for name in layers if name in found]


def _is_attention(name: str) -> bool:
    """Whether a layer is part of an attention, and not of the small network of its positions."""
    within = name.split(".")[:-1]
    return any("att" in part for part in within) and not any("mlp" in part for part in within)


def _check_names(targets: Any, layers: Mapping[str, Any], called: Sequence[str]) -> None:
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise ConfigError(
                f"{LORA}.target_modules", f"is no regular expression ({error})", got=targets,
                remedy="Write a list of names",
            ) from error  # fmt: skip
        return
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise ConfigError(
                f"{LORA}.target_modules", "no such layer in the encoder", got=target,
                remedy=f"It has {_listed(called)}", name=target,
                options=[*map(_short, called), *called],
            )  # fmt: skip


def _matching(config: Mapping[str, Any], layers: Iterable[str]) -> list[str]:
    from peft.tuners.tuners_utils import check_target_module_exists

    chosen = peft_config(config)
    return [name for name in layers if check_target_module_exists(chosen, name)]


def _short(name: str) -> str:
    """The last part of a layer's name that is no number, and what follows it."""
    parts = name.split(".")
    start = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[start:])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(map(_short, names))) or "none"
