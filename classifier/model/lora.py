"""Low-rank adapters beside the layers of a frozen encoder. Needs peft.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from classifier.model.freezing import shown_trainable
from classifier.model.layer_groups import LayerGroup
from classifier.model.lora_config import CHOICE, chosen_layers, peft_config, refused
from classifier.model.network import Network

_STARTS_AT_ZERO = (True, "gaussian")  # the adapters change nothing before the first step


@dataclass(frozen=True)
class Adapters:
    """What a network has got.

    Args:
        r: Rank.
        layers: Names of the layers within `Network.model`.
        groups: The encoder's layer groups; an adapter belongs to that of its layer.
        trained: Names of the encoder's parameters that are trained, within the network.
    """

    r: int
    layers: tuple[str, ...]
    groups: tuple[LayerGroup, ...]
    trained: frozenset[str]


def add_adapters(network: Network, config: Mapping[str, Any]) -> None:
    """Freeze the encoder, and put a trainable adapter beside some of its layers.

    Args:
        network: With its head.
        config: As `check_lora` lets it pass. Without `target_modules` these are the linear layers
            of its attention.

    Raises:
        ConfigError: a name that no layer has, or a layer that cannot have an adapter.
    """
    layers = chosen_layers(network, config)
    others = {key: value for key, value in config.items() if key not in CHOICE}
    _inject(network, {**others, "target_modules": layers})


def restore_adapters(network: Network, config: Mapping[str, Any]) -> None:
    """Put the adapters of a checkpoint into its rebuilt network; their weights come afterwards.

    Args:
        network: As it was before it had adapters.
        config: Of its `spec`.

    Raises:
        ConfigError: peft is not installed.
    """
    _inject(network, config, start=False)


def train_adapters(network: Network) -> str:
    """Let adapters and head be trained, and nothing else. Calling it again gives the same state.

    Returns:
        What is trained, for the log.
    """
    adapters = network.adapters
    assert adapters is not None
    encoder = {name for group in adapters.groups for name in group.parameters}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in adapters.trained or name not in encoder)
    return f"LoRA r {adapters.r} on {len(adapters.layers)} layers; {shown_trainable(network)}"


def merge_adapters(network: Network) -> None:
    """Add the adapters to the weights beside which they stand, and leave the plain network.

    Args:
        network: Stays as it is where it has none.
    """
    adapters = network.adapters
    if adapters is None:
        return
    for name in adapters.layers:
        layer: Any = network.model.get_submodule(name)
        layer.merge(safe_merge=True)
        network.model.set_submodule(name, layer.get_base_layer())
    del network.model.peft_config
    network.adapters = None
    network.spec.pop("lora")


def named_as_with_adapters(
    network: Network, weights: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """The weights of a network without adapters, under the names of one that has them.

    Args:
        network: Which takes them.
        weights: All of a checkpoint.
        prefix: What the names of the network's weights begin with there.

    Returns:
        With the adapters' own, which change nothing yet; the same weights where they do not.
    """
    adapters = network.adapters
    start = network.spec.get("lora", {}).get("init_lora_weights", True)
    if adapters is None or start not in _STARTS_AT_ZERO:
        return dict(weights)
    renamed = dict(weights)
    for layer in adapters.layers:
        inside = f"{prefix}model.{layer}."
        for name, value in network.model.get_submodule(layer).state_dict().items():
            plain = inside + name.removeprefix("base_layer.")
            if name.startswith("base_layer.") and plain in renamed:
                renamed[inside + name] = renamed.pop(plain)
            elif not name.startswith("base_layer."):
                renamed.setdefault(inside + name, value)
    return renamed


def _inject(network: Network, config: Mapping[str, Any], start: bool = True) -> None:
    groups = network.layer_groups()
    # A checkpoint's weights take the place of any start, some of which are slow.
    chosen = peft_config(config if start else {**config, "init_lora_weights": True})
    from peft import inject_adapter_in_model

    try:
        inject_adapter_in_model(chosen, network.model)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise refused(error, config) from error
    layers = tuple(config["target_modules"])
    # Within an adapted layer all belongs to the group of its weight.
    layer_of = {
        f"model.{layer}.{name}": f"model.{layer}.weight"
        for layer in layers
        for name, _ in network.model.get_submodule(layer).named_parameters()
    }
    group_of = {name: index for index, group in enumerate(groups) for name in group.parameters}
    members: list[list[str]] = [[] for _ in groups]
    trained = set()
    for name, parameter in network.named_parameters():
        index = group_of.get(layer_of.get(name, name))
        if index is not None:
            members[index].append(name)
            trained |= {name} if parameter.requires_grad else set()
    network.adapters = Adapters(
        r=chosen.r,
        layers=layers,
        groups=tuple(
            LayerGroup(group.name, tuple(names))
            for group, names in zip(groups, members, strict=True)
        ),
        trained=frozenset(trained),
    )
    network.spec["lora"] = dict(config)
