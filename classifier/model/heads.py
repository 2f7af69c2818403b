"""A classification head of several layers in the place of a library's single one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from classifier.errors import ConfigError
from classifier.model.network import Network

HEAD = "model.init_args.head"
_KEYS = ("hidden", "dropout", "activation")
_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True)
class HeadLayers:
    """Dropout, linear layer, activation, ..., dropout, linear layer.

    Args:
        hidden: Outputs of the layers before the last one, each at least 1; empty for one layer.
        dropout: Probability in [0, 1) before every linear layer.
        activation: gelu or relu, after every hidden layer.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "gelu"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HeadLayers:
        """Read what `head` says.

        Args:
            config: `hidden` (a size or a list of sizes), `dropout`, `activation`; all optional.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        for key in config:
            if key not in _KEYS:
                raise ConfigError(
                    f"{HEAD}.{key}", "unknown key", name=key, options=_KEYS,
                    remedy=f"A head has {', '.join(_KEYS)}",
                )  # fmt: skip
        hidden = config.get("hidden")
        sizes = [] if hidden is None else hidden if isinstance(hidden, list | tuple) else [hidden]
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ConfigError(
                f"{HEAD}.hidden", "must be a size of at least 1, or a list of sizes", got=hidden,
                remedy="Write for example 256 or [512, 256]",
            )  # fmt: skip
        dropout = config.get("dropout", 0.0)
        number = isinstance(dropout, int | float) and not isinstance(dropout, bool)
        if not number or not 0.0 <= dropout < 1.0:
            raise ConfigError(
                f"{HEAD}.dropout", "must be in [0, 1)", got=dropout, remedy="Write for example 0.5"
            )
        activation = config.get("activation", "gelu")
        if activation not in _ACTIVATIONS:
            raise ConfigError(
                f"{HEAD}.activation", f"must be {' or '.join(_ACTIVATIONS)}", got=activation,
                name=str(activation), options=_ACTIVATIONS,
            )  # fmt: skip
        return cls(tuple(sizes), float(dropout), activation)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which `from_config` reads."""
        return {"hidden": list(self.hidden), "dropout": self.dropout, "activation": self.activation}

    def in_place_of(self, layer: nn.Linear | nn.Conv2d) -> nn.Sequential:
        """The head with the inputs and outputs of another layer.

        Args:
            layer: A linear layer, or a convolution, which is replaced by 1 x 1 convolutions.
        """
        linear = isinstance(layer, nn.Linear)
        inputs, outputs = inputs_of(layer), outputs_of(layer)
        layers: list[nn.Module] = []
        widths = list(pairwise((inputs, *self.hidden, outputs)))
        for index, (before, after) in enumerate(widths):
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            layers.append(nn.Linear(before, after) if linear else nn.Conv2d(before, after, 1))
            if index < len(widths) - 1:
                layers.append(_ACTIVATIONS[self.activation]())
        return nn.Sequential(*layers)


def inputs_of(layer: nn.Linear | nn.Conv2d) -> int:
    """Features that a layer takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def outputs_of(layer: nn.Linear | nn.Conv2d) -> int:
    """Features that a layer gives."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def logit_layers(network: Network, num_classes: int) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that give the logits, by their names within `Network.model`.

    A distilled DeiT has two, whose logits it averages.

    Args:
        network: With a head of its library's.
        num_classes: Outputs of the layers.
    """
    encoder = {
        name.rpartition(".")[0] for group in network.layer_groups() for name in group.parameters
    }
    return {
        name: layer
        for name, layer in network.model.named_modules()
        if f"model.{name}" not in encoder
        and isinstance(layer, nn.Linear | nn.Conv2d)
        and outputs_of(layer) == num_classes
    }


def replace_head(network: Network, head: HeadLayers, num_classes: int) -> None:
    """Put a head in the place of the layers that give the logits.

    Args:
        network: With a head of its library's.
        head: What takes its place.
        num_classes: Outputs of the layers to replace.

    Raises:
        ConfigError: the network ends in no linear layer.
    """
    found = logit_layers(network, num_classes)
    if not found:
        raise ConfigError(
            HEAD, f"{type(network.model).__name__} ends in no linear layer that could be replaced",
            got=head.to_dict(), remedy="Write null for its own head",
        )  # fmt: skip
    for name, layer in found.items():
        network.model.set_submodule(name, head.in_place_of(layer))
    network.spec["head"] = head.to_dict()
