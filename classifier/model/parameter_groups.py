"""Which parameters share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from classifier.errors import ConfigError
from classifier.model.layer_groups import LayerGroup

OPTIMIZER = "model.init_args.optimizer_config"
# Keys of optimizer_config that are ours and not the optimizer's.
GROUP_KEYS = ("lr_backbone", "lr_head", "layer_decay", "decay_norms_and_biases")
RATES = ("lr", "lr_backbone", "lr_head")


def check_group_keys(config: Mapping[str, Any]) -> None:
    """Refuse values of the keys that make parameter groups.

    Args:
        config: `optimizer_config`.

    Raises:
        ConfigError: names the key.
    """
    for key in (*RATES, "weight_decay"):
        value = config.get(key, 0.0)
        if not isinstance(value, int | float | torch.Tensor) or isinstance(value, bool):
            raise ConfigError(f"{OPTIMIZER}.{key}", "must be a number", got=value)
        if key in GROUP_KEYS and value < 0:
            raise ConfigError(f"{OPTIMIZER}.{key}", "must be at least 0", got=value)
    decay = config.get("layer_decay", 1.0)
    if not isinstance(decay, int | float) or isinstance(decay, bool) or not 0 < decay <= 1:
        raise ConfigError(
            f"{OPTIMIZER}.layer_decay", "must be a number in (0, 1]", got=decay,
            remedy="Write for example 0.75",
        )  # fmt: skip
    if not isinstance(config.get("decay_norms_and_biases", False), bool):
        raise ConfigError(
            f"{OPTIMIZER}.decay_norms_and_biases", "must be true or false",
            got=config["decay_norms_and_biases"],
        )  # fmt: skip


def parameter_groups(
    network: nn.Module,
    config: Mapping[str, Any],
    *,
    lr: Any,
    weight_decay: Any,
    frozen_too: bool = False,
) -> list[dict[str, Any]]:
    """The parameters of a network as an optimizer takes them.

    The head learns at `lr_head`. The encoder learns at `lr_backbone`, and with `layer_decay` the
    k-th of its layer groups, counted from the output and from 1, at layer_decay ** k of that. Where
    all learn alike there is one group, or two: with weight decay and without.

    Args:
        network: With `layer_groups()`; without, all of it counts as the head.
        config: `optimizer_config`, checked by `check_group_keys`.
        lr: What `lr_backbone` and `lr_head` are by default; None where the optimizer has none.
        weight_decay: Of tensors with more than one dimension; of all others too where
            `decay_norms_and_biases` says so.
        frozen_too: Take parameters that do not require a gradient as well.

    Raises:
        ConfigError: a learning rate is missing.

    Source: layer-wise decay, Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR
        2022, as in timm.optim.param_groups_layer_decay. No decay on biases and gains, He et al.,
        "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019,
        section 3.1.
    """
    taken = {n: p for n, p in network.named_parameters() if p.requires_grad or frozen_too}
    if not any(key in config for key in ("lr_backbone", "lr_head", "layer_decay")):
        parts: list[tuple[dict[str, Any], list[nn.Parameter]]] = [({}, list(taken.values()))]
    else:
        parts = list(_parts(network, taken, config, lr))
    everything = bool(config.get("decay_norms_and_biases", False)) or not weight_decay
    groups: list[dict[str, Any]] = []
    for settings, parameters in parts:
        decayed = [p for p in parameters if everything or p.ndim > 1]
        others = [p for p in parameters if not (everything or p.ndim > 1)]
        plain = {"weight_decay": 0.0} if (others and decayed) or settings else {}
        name = settings.get("name")
        if decayed:
            groups.append({"params": decayed, **settings})
        if others:
            named = {"name": f"{name}.no_decay"} if name else {}
            groups.append({"params": others, **settings, **plain, **named})
    return groups


def _parts(
    network: nn.Module, taken: Mapping[str, nn.Parameter], config: Mapping[str, Any], lr: Any
) -> Iterator[tuple[dict[str, Any], list[nn.Parameter]]]:
    """Learning rate and name of each part from the input to the head, with its parameters."""
    rates = {key: config.get(key, lr) for key in ("lr_backbone", "lr_head")}
    for key, rate in rates.items():
        if rate is None:
            raise ConfigError(
                f"{OPTIMIZER}.lr", f"is missing, and {key} is too", remedy="Write one of the two"
            )
    list_groups: Any = getattr(network, "layer_groups", list)
    layer_groups: list[LayerGroup] = list_groups()
    decay = config.get("layer_decay")
    in_encoder: set[str] = set()
    encoder: list[nn.Parameter] = []
    for index, group in enumerate(layer_groups):
        in_encoder.update(group.parameters)
        members = [taken[name] for name in group.parameters if name in taken]
        if decay is None:
            encoder += members
        elif members:
            rate = rates["lr_backbone"] * decay ** (len(layer_groups) - index)
            yield {"lr": rate, "name": f"encoder.{index}.{group.name}"}, members
    if encoder:
        yield {"lr": rates["lr_backbone"], "name": "encoder"}, encoder
    head = [parameter for name, parameter in taken.items() if name not in in_encoder]
    if head:
        yield {"lr": rates["lr_head"], "name": "head"}, head
