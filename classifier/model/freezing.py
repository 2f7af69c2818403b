"""Layer groups from the input to the output: a fraction of them frozen, and freed by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from classifier.errors import ConfigError

UNFREEZE = "model.init_args.unfreeze_schedule"
_STAGES = {"head": 0.0, "all": 1.0}  # what is trained of the encoder


@dataclass(frozen=True)
class LayerGroup:
    """Parameters that are frozen or trained together.

    Args:
        name: What its parameters' names have in common, such as `layer1.0`.
        parameters: Names of its parameters within the network.
    """

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class FreezeReport:
    """What freezing did, for the log.

    Args:
        frozen: Names of the frozen layer groups, from the input side.
        num_groups: All layer groups of the encoder; the head is none of them.
        num_trainable: Parameters that will be trained, the head's included.
        num_parameters: All parameters.
    """

    frozen: tuple[str, ...]
    num_groups: int
    num_trainable: int
    num_parameters: int

    def __str__(self) -> str:
        names = ", ".join(self.frozen[:2])
        if len(self.frozen) > 2:
            names = f"{self.frozen[0]} ... {self.frozen[-1]}"
        return (
            f"froze {len(self.frozen)} of {self.num_groups} layer groups"
            + (f": {names}" if names else "")
            + f"; trainable {counted(self.num_trainable)} of {counted(self.num_parameters)}"
        )


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


def check_unfreeze_schedule(
    schedule: Mapping[int, Any] | None, fraction_frozen: bool | float
) -> None:
    """Refuse a schedule that cannot be followed.

    Args:
        schedule: Epoch, from 0 -> what is trained from then on: `head`, `all`, or the fraction in
            [0, 1] of the encoder's layer groups, from the output side.
        fraction_frozen: `freeze_encoder`, which must be false beside a schedule.

    Raises:
        ConfigError: an unknown stage, no stage for epoch 0, or one that freezes again.
    """
    if schedule is None:
        return
    if fraction_frozen:
        raise ConfigError(
            "model.init_args.freeze_encoder", "stands beside unfreeze_schedule",
            got=fraction_frozen, remedy="Write false: the schedule says what is frozen",
        )  # fmt: skip
    for epoch, stage in schedule.items():
        number = isinstance(stage, int | float) and not isinstance(stage, bool)
        if not (stage in _STAGES if isinstance(stage, str) else number and 0 <= stage <= 1):
            raise ConfigError(
                f"{UNFREEZE}.{epoch}", "must be head, all or a fraction in [0, 1]", got=stage,
                remedy="Write for example 0.25", name=str(stage), options=_STAGES,
            )  # fmt: skip
    if min(schedule, default=-1) != 0:
        raise ConfigError(
            UNFREEZE, "must say what is trained from epoch 0 on, and in no epoch before",
            got=dict(schedule), remedy="Write for example {0: head, 2: 0.25, 4: all}",
        )  # fmt: skip
    epochs = sorted(schedule)
    for before, after in pairwise(epochs):
        if _fraction_trained(schedule[after]) < _fraction_trained(schedule[before]):
            raise ConfigError(
                f"{UNFREEZE}.{after}", f"trains less than epoch {before} does; what is trained "
                "once is not frozen again", got=schedule[after], remedy="Let the fractions grow",
            )  # fmt: skip


def num_frozen_in_epoch(schedule: Mapping[int, Any], epoch: int, num_groups: int) -> int:
    """How many of the first layer groups are frozen in an epoch.

    Args:
        schedule: As `check_unfreeze_schedule` lets it pass.
        epoch: From 0.
        num_groups: Layer groups of the encoder.
    """
    stage = schedule[max(start for start in schedule if start <= epoch)]
    return num_groups - math.floor(_fraction_trained(stage) * num_groups + 0.5)


def _fraction_trained(stage: str | float) -> float:
    return _STAGES[stage] if isinstance(stage, str) else float(stage)


def freeze_groups(network: nn.Module, groups: Sequence[LayerGroup], number: int) -> FreezeReport:
    """Freeze the first groups and free all others. Calling it again gives the same state.

    Args:
        network: The network whose parameters the groups name.
        groups: The encoder's groups in order, a partition of its parameters without the head.
        number: How many are frozen, from the input side.
    """
    frozen = groups[:number]
    names = {name for group in frozen for name in group.parameters}
    names |= getattr(network, "held", frozenset())  # frozen by the model's author
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in names)
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return FreezeReport(
        frozen=tuple(group.name for group in frozen),
        num_groups=len(groups),
        num_trainable=sum(size for size, trainable in sizes if trainable),
        num_parameters=sum(size for size, _ in sizes),
    )


def hold_frozen_in_eval(network: nn.Module) -> None:
    """Put every module whose parameters are all frozen into eval mode.

    requires_grad=False alone lets BatchNorm go on updating its running statistics, and dropout go
    on dropping, in layers that the user asked to leave alone. Call it after every `train()`.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def group_by_prefix(names: Iterable[str], prefixes: dict[str, str]) -> list[LayerGroup]:
    """Collect parameter names into groups, in the order in which the prefixes first appear.

    Args:
        names: Parameter names in the order of the network.
        prefixes: Parameter name -> name of its group.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(prefixes[name], []).append(name)
    return [LayerGroup(prefix, tuple(members)) for prefix, members in groups.items()]


def group_by_block(model: nn.Module, head: str, prefix: str = "") -> list[LayerGroup]:
    """A model's blocks as groups, in the order of its parameters, for models of any make.

    Containers are opened, and so is a submodule that outweighs all others which are no single
    layers: it is the encoder by another name. What is left are blocks, or single layers; a
    normalisation belongs to the layer before it. Parameters of the model's own, such as position
    embeddings, belong to the first block.

    Args:
        model: Any module.
        head: Name of the submodule that is no part of the encoder.
        prefix: Put before the names of the parameters.
    """
    head_parameters = {id(p) for p in model.get_submodule(head).parameters()}
    names = [name for name, p in model.named_parameters() if id(p) not in head_parameters]
    group_of: dict[str, str] = {}  # block -> the group that it begins or goes on
    for block in _blocks(model, "", head_parameters, trunk=True):
        weights = model.get_submodule(block).parameters()
        goes_on = bool(group_of) and all(p.ndim <= 1 for p in weights)
        group_of[block] = list(group_of.values())[-1] if goes_on else block
    first = next(iter(group_of.values()), "parameters")
    labels = {
        prefix + name: next((g for b, g in group_of.items() if name.startswith(f"{b}.")), first)
        for name in names
    }
    # Own parameters come first in `names`, so that the first block does too.
    return group_by_prefix(labels, labels)


def _blocks(module: nn.Module, path: str, head: set[int], trunk: bool) -> Iterator[str]:
    sizes = {
        name: sum(p.numel() for p in child.parameters() if id(p) not in head)
        for name, child in module.named_children()
    }
    nested = {n for n, child in module.named_children() if any(True for _ in child.children())}
    whole = sum(sizes[name] for name in nested)
    for name, child in module.named_children():
        if sizes[name] == 0:
            continue
        main = trunk and name in nested and 2 * sizes[name] > whole
        if _is_container(child) or main:
            inside = trunk and not _is_container(child)
            yield from _blocks(child, f"{path}{name}.", head, trunk=inside)
        else:
            yield f"{path}{name}"


def _is_container(module: nn.Module) -> bool:
    """Whether a module only holds others; a subclass may be a block of convolution and norm."""
    if type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return True
    holds_blocks = any(any(True for _ in child.children()) for child in module.children())
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and holds_blocks


def counted(number: int) -> str:
    """A number of parameters as people say it, such as 1.5 M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
