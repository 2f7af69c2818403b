"""A fraction of the layer groups frozen, and what is frozen held as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from classifier.errors import ConfigError

if TYPE_CHECKING:
    from classifier.model.network import Network


def num_frozen_groups(fraction: bool | float, num_groups: int) -> int:
    """How many groups a fraction freezes: the nearest whole number, a half rounded up.

    Args:
        fraction: In [0, 1]; False is 0 and True is 1.
        num_groups: Layer groups of the encoder.

    Raises:
        ConfigError: a fraction outside [0, 1].
    """
    if not 0.0 <= float(fraction) <= 1.0:
        raise ConfigError(
            "model.init_args.freeze_encoder", "must be false, true or a fraction in [0, 1]",
            got=fraction, remedy="Write for example 0.5",
        )  # fmt: skip
    return math.floor(float(fraction) * num_groups + 0.5)


def freeze_groups(network: Network, number: int) -> str:
    """Freeze the first layer groups and free the others. Calling it again gives the same state.

    Args:
        network: Whose head is always free.
        number: How many groups are frozen, from the input side.

    Returns:
        What was done, for the log.
    """
    groups = network.layer_groups()
    frozen = groups[:number]
    names = network.held | {name for group in frozen for name in group.parameters}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in names)
    shown = ", ".join(group.name for group in frozen)
    if number > 2:
        shown = f"{frozen[0].name} ... {frozen[-1].name}"
    return (
        f"froze {number} of {len(groups)} layer groups"
        f"{f': {shown}' if shown else ''}; {shown_trainable(network)}"
    )


def shown_trainable(network: nn.Module) -> str:
    """How many parameters are trained, the head's included, in words for the log."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in network.parameters())
    return f"trainable {_counted(trained)} of {_counted(whole)}"


def _counted(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def hold_frozen_in_eval(network: nn.Module) -> None:
    """Put every module whose parameters are all frozen into eval mode.

    requires_grad=False alone lets BatchNorm go on updating its running statistics, and dropout go
    on dropping, in layers that the user asked to leave alone. Call it after every `train()`.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Give every module its train or eval mode back after the block."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
