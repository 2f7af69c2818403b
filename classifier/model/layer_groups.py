"""An encoder's parameters in groups from the input to the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LayerGroup:
    """Parameters that are frozen or trained together.

    Args:
        name: What its parameters' names have in common, such as `layer1.0`.
        parameters: Their names.
    """

    name: str
    parameters: tuple[str, ...]


def group_by_label(labels: Mapping[str, str]) -> list[LayerGroup]:
    """Collect parameters of the same label, in the order in which the labels first appear.

    Args:
        labels: Parameter name -> name of its group, in the order of the network.
    """
    groups: dict[str, list[str]] = {}
    for name, label in labels.items():
        groups.setdefault(label, []).append(name)
    return [LayerGroup(label, tuple(members)) for label, members in groups.items()]


def group_by_block(model: nn.Module, head: str) -> list[LayerGroup]:
    """A model's blocks as groups, in the order of its parameters, for models of any make.

    Containers are opened, and so is a submodule that outweighs all others which are no single
    layers: it is the encoder by another name. What is left are blocks, or single layers; a
    normalisation belongs to the layer before it. Parameters of the model's own, such as position
    embeddings, belong to the first block.

    Args:
        model: Any module.
        head: Name of the submodule that is no part of the encoder.
    """
    head_parameters = {id(p) for p in model.get_submodule(head).parameters()}
    names = [name for name, p in model.named_parameters() if id(p) not in head_parameters]
    group_of: dict[str, str] = {}  # block -> the group that it begins or goes on
    for block in _blocks(model, "", head_parameters, trunk=True):
        weights = model.get_submodule(block).parameters()
        goes_on = bool(group_of) and all(p.ndim <= 1 for p in weights)
        group_of[block] = list(group_of.values())[-1] if goes_on else block
    first = next(iter(group_of.values()), "parameters")
    # Own parameters come first in `names`, so that the first block does too.
    return group_by_label(
        {
            name: next((g for b, g in group_of.items() if name.startswith(f"{b}.")), first)
            for name in names
        }
    )


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
