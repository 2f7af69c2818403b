"""What `lora` of the configuration may say, the layers that it means, and peft's object for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from classifier.errors import ConfigError, reason_of
from classifier.model.network import Network
from classifier.model.options import MODEL

LORA = f"{MODEL}.lora"
_LIBRARY = "peft"
# What chooses the layers; a checkpoint holds the names of those that were chosen instead.
CHOICE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# Arguments of peft.LoraConfig that are plain data, and say all that is needed to begin.
_ARGUMENTS = (
    "r", "lora_alpha", "lora_dropout", *CHOICE, "bias", "use_rslora", "use_dora", "lora_bias",
    "init_lora_weights", "rank_pattern", "alpha_pattern",
)  # fmt: skip
_STARTS = (True, False, "gaussian", "orthogonal", "pissa", "olora")
_BIASES = ("none", "all", "lora_only")
_ALL_LINEAR = "all-linear"


def check_lora(
    config: Mapping[str, Any] | None, freeze_encoder: bool | float, schedule: Any
) -> None:
    """Refuse adapters that cannot be, before anything is built.

    Args:
        config: `lora`.
        freeze_encoder: Beside it, false or true.
        schedule: `unfreeze_schedule`, which cannot stand beside it.

    Raises:
        ConfigError: names the key, or what to install.
    """
    if config is None:
        return
    _check_values(config)
    if freeze_encoder not in (0, 1):
        raise ConfigError(
            f"{MODEL}.freeze_encoder", "stands beside lora, which freezes the whole encoder",
            got=freeze_encoder, remedy="Write true, or lora: null",
        )  # fmt: skip
    if schedule is not None:
        raise ConfigError(
            f"{MODEL}.unfreeze_schedule", "stands beside lora, whose encoder stays frozen",
            got=schedule, remedy="Write null for one of the two",
        )  # fmt: skip
    peft_config(config)


def _check_values(config: Mapping[str, Any]) -> None:
    for key in config:
        if key not in _ARGUMENTS:
            raise ConfigError(
                f"{LORA}.{key}", "unknown key", name=key, options=_ARGUMENTS,
                remedy=f"It takes {', '.join(_ARGUMENTS)}",
            )  # fmt: skip
    r, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(r) is not int or r < 1:
        raise ConfigError(f"{LORA}.r", "must be a whole number of at least 1", got=r)
    if not _is_number(alpha) or alpha <= 0:
        raise ConfigError(f"{LORA}.lora_alpha", "must be a number above 0", got=alpha)
    dropout = config.get("lora_dropout", 0.0)
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise ConfigError(f"{LORA}.lora_dropout", "must be in [0, 1)", got=dropout)
    for key, allowed in (("bias", _BIASES), ("init_lora_weights", _STARTS)):
        if key in config and config[key] not in allowed:
            raise ConfigError(
                f"{LORA}.{key}", "unknown value", got=config[key], name=str(config[key]),
                remedy=f"Write one of {', '.join(str(value) for value in allowed).lower()}",
                options=[value for value in allowed if isinstance(value, str)],
            )  # fmt: skip
    targets = config.get("target_modules")
    names = [targets] if isinstance(targets, str) or targets is None else targets
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(n, str | None) for n in names)
    ):
        raise ConfigError(
            f"{LORA}.target_modules", "must be a list of names, or a regular expression",
            got=targets, remedy="Write for example [qkv, proj], all-linear, or null",
        )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def peft_config(config: Mapping[str, Any]) -> Any:
    """The peft.LoraConfig of a configuration.

    Raises:
        ConfigError: peft is not installed, or refuses it.
    """
    if find_spec(_LIBRARY) is None:
        raise ConfigError(LORA, "needs peft, which is not installed", remedy="pip install peft")
    from peft import LoraConfig

    try:
        return LoraConfig(**config)
    except (TypeError, ValueError) as error:
        raise refused(error, config) from error


def refused(error: Exception, config: Mapping[str, Any]) -> ConfigError:
    """What peft says of a configuration that it cannot use."""
    return ConfigError(LORA, f"peft refuses it ({reason_of(error)})", got=dict(config))


# Which layers


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
    found: set[str] = set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: found.add(name))
        for name, layer in layers.items()
    ]
    try:
        network.try_out()
    finally:
        for handle in handles:
            handle.remove()
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
