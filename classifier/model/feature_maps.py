"""Where a network's features still lie in a grid over the image: the last such place, by trying.

It knows no architecture: it watches which outputs have rows, columns and channels, and takes the
last one that all knowledge of the image passes through, and that the logits depend on in the grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classifier.errors import RunError
from classifier.model.freezing import modes_kept
from classifier.model.outputs import mapped, tensor_of

_MOST_PREFIX_TOKENS = 16  # a class token, one of distillation, registers
_MOST_TRIED = 40


@dataclass(frozen=True)
class _Layout:
    """How an output of a module holds a grid.

    Args:
        kind: channels_first (N, C, h, w), channels_last (N, h, w, C) or tokens (N, T, C).
        height: Rows of the grid.
        width: Its columns.
        prefix: Tokens before those of the grid.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    def to_grid(self, output: Tensor) -> Tensor:
        """(N, C, h, w) of an output."""
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], self.height, self.width)

    def from_grid(self, grid: Tensor, output: Tensor) -> Tensor:
        """An output again, whose further tokens are those of `output`."""
        if self.kind == "channels_first":
            return grid
        if self.kind == "channels_last":
            return grid.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], grid.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True)
class FeatureMap:
    """A place in a network where features lie in a grid. Made by `find_feature_map`.

    Args:
        name: Of the module whose output it is.
        module: That module.
        layout: How its output holds the grid.
    """

    name: str
    module: nn.Module
    layout: _Layout

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.layout.size

    @contextmanager
    def passing(self, seam: nn.Module) -> Iterator[None]:
        """Let the features pass through a module, as (N, C, h, w), while the network runs.

        Args:
            seam: What takes and gives them; the network goes on with what it gives.
        """

        def through(module: nn.Module, inputs: Any, output: Any) -> Any:
            found = tensor_of(output)
            assert found is not None
            changed = self.layout.from_grid(seam(self.layout.to_grid(found)), found)
            return mapped(output, lambda _: changed)

        handle = self.module.register_forward_hook(through)
        try:
            yield
        finally:
            handle.remove()


def find_feature_map(network: nn.Module, images: Tensor) -> FeatureMap:
    """The last place where features lie in a grid of more than one cell over the image.

    Args:
        network: Gives logits (N, num_classes). It keeps its modes.
        images: (N, 3, H, W) with N of at least 1, normalised, on the network's device.

    Raises:
        RunError: there is none, as in a network that mixes all places from the start.
    """
    pair = torch.cat([images[:1], images[:1].flip(-1)])  # two: what has one row for each image
    with modes_kept(network), torch.inference_mode(False), torch.enable_grad():
        network.eval()
        candidates = _candidates(network, pair)[:_MOST_TRIED]
        for number, place in enumerate(candidates):
            if _is_narrow(network, place, pair):
                behind = candidates[:number] if place.layout.prefix else []
                return next((c for c in behind if _takes_over(network, place, c, pair)), place)
    raise RunError(
        f"{type(getattr(network, 'model', network)).__name__}: no layer was found whose output "
        "lies in a grid over the image, so there is nothing to draw a map of. Class-activation "
        "maps need a convolutional or a transformer encoder, and images of several of its cells"
    )


def _candidates(network: nn.Module, images: Tensor) -> list[FeatureMap]:
    """Outputs in a grid that the logits depend on, the last one first."""
    names = {module: name for name, module in network.named_modules() if name}
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        found = tensor_of(output)
        if found is None or not found.is_floating_point() or len(found) != len(images):
            return output
        # A graph of its own, also where all is frozen; a copy, which nothing changes in place.
        copied = found.clone() if found.requires_grad else found.detach().clone().requires_grad_()
        outputs.append((module, copied))
        return mapped(output, lambda _: copied.clone())

    handles = [module.register_forward_hook(keep) for module in names]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    runs = Counter(module for module, _ in outputs)
    found = [
        (FeatureMap(names[module], module, layout), output)
        for (module, output), layout in zip(outputs, _layouts(outputs, images), strict=True)
        if layout is not None and runs[module] == 1
    ]
    if not found:
        return []
    gradients = torch.autograd.grad(
        _spread(logits), [output for _, output in found], allow_unused=True
    )
    pairs = list(zip(found, gradients, strict=True))
    return [
        place
        for (place, _), gradient in reversed(pairs)
        if gradient is not None and bool(place.layout.to_grid(gradient).any())
    ]


def _layouts(outputs: list[tuple[nn.Module, Tensor]], images: Tensor) -> Iterator[_Layout | None]:
    """The layout of each output; None where it is in no grid of several cells."""
    seen: tuple[int, int] | None = None  # the grid of the last output that shows its own
    for _, output in outputs:
        layout = None
        if output.ndim == 4:
            layout = _shown(output, images)
            # Features become coarser; what is finer is a matrix of attention, tokens by tokens.
            if seen is not None and layout is not None and math.prod(layout.size) > math.prod(seen):
                layout = None
            seen = seen if layout is None else layout.size
        elif output.ndim == 3 and seen is not None:
            layout = _of_tokens(output.shape[1], seen)
        yield layout


def _shown(output: Tensor, images: Tensor) -> _Layout | None:
    """The grid of a tensor of four dimensions: the two of them that have the image's aspect."""
    _, first, second, third = output.shape
    height, width = images.shape[-2:]
    layouts = (
        _Layout("channels_first", second, third), _Layout("channels_last", first, second),
    )  # fmt: skip
    off, layout = min(
        ((abs(one.height * width - one.width * height), one) for one in layouts),
        key=lambda pair: pair[0],
    )
    # Off by less than a cell: rounded, as 3 x 4 of 160 x 224 pixels. A single cell is no grid.
    fits = off < max(height, width) and layout.height <= height and math.prod(layout.size) > 1
    return layout if fits else None


def _of_tokens(num_tokens: int, seen: tuple[int, int]) -> _Layout | None:
    """The grid of tokens: that of the patches they were, merged two by two as often as needed."""
    height, width = seen
    prefix = num_tokens - height * width
    if 0 <= prefix <= _MOST_PREFIX_TOKENS:
        return _Layout("tokens", height, width, prefix)
    while height * width > num_tokens:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        if height * width == num_tokens:
            return _Layout("tokens", height, width)
        if height * width == 1:
            break
    return None


def _is_narrow(network: nn.Module, place: FeatureMap, images: Tensor) -> bool:
    """Whether the logits know of the images through this place alone."""
    images = images.detach().clone().requires_grad_()
    with _cut(place):
        logits = network(images)
    return _is_apart(logits, images)


def _takes_over(network: nn.Module, place: FeatureMap, behind: FeatureMap, images: Tensor) -> bool:
    """Whether the logits know of the grid at a place through a later one alone.

    Where the head reads a class token, the last block's normalisation does: the class token goes
    round it, the others only go through it. What comes before a normalisation of each token tells
    nothing: it scales every token alike, so that features times gradients add up to nothing.
    """
    seam = _Source()
    with place.passing(seam), _cut(behind):
        logits = network(images)
    return _is_apart(logits, seam.features)


class _Source(nn.Module):
    """Gives what it takes, as the beginning of a graph."""

    features: Tensor

    def forward(self, features: Tensor) -> Tensor:
        self.features = features.detach().clone().requires_grad_()
        return self.features.clone()  # which may be changed in place


@contextmanager
def _cut(place: FeatureMap) -> Iterator[None]:
    """No gradients through a place, while the network runs."""

    def without(module: nn.Module, inputs: Any, output: Any) -> Any:
        return mapped(output, lambda tensor: tensor.detach().clone())

    handle = place.module.register_forward_hook(without)
    try:
        yield
    finally:
        handle.remove()


def _is_apart(logits: Tensor, source: Tensor) -> bool:
    """Whether no path leads from a tensor to the logits."""
    if not logits.requires_grad:
        return True
    (found,) = torch.autograd.grad(_spread(logits), [source], allow_unused=True)
    return found is None or not bool(found.any())


def _spread(logits: Tensor) -> Tensor:
    """One number that depends on all logits, each with a weight of its own."""
    weights = torch.linspace(1.0, 2.0, logits.shape[1], device=logits.device)
    return (logits.float() * weights).sum()
