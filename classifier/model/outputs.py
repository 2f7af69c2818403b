"""What modules give: a tensor, or a tuple, list or mapping that holds some."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Like(NamedTuple):
    """A tensor of zeros: `factor` rows for every image."""

    factor: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def tensor_of(output: Any) -> Tensor | None:
    """The one tensor of an output; None where there is none or several."""
    found = list(tensors(output))
    return found[0] if len(found) == 1 else None


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors of an output, however it holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)


def mapped(output: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of an output with its tensors, or what stands for them, changed."""
    if isinstance(output, Tensor | Like):
        return change(output)
    if isinstance(output, Mapping):
        copied: Any = copy.copy(output)
        for key, value in output.items():
            copied[key] = mapped(value, change)
        return copied
    if isinstance(output, list):
        return [mapped(value, change) for value in output]
    if isinstance(output, tuple):
        values = [mapped(value, change) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    return output


def like(output: Any, num_images: int) -> Any:
    """What an output for so many images looks like, for any number of them."""

    def described(tensor: Tensor) -> Any:
        factor, rest = divmod(tensor.shape[0] if tensor.ndim else 1, num_images)
        if rest or not factor:
            return tensor.detach()  # not of images: the same for any number of them
        return Like(factor, tuple(tensor.shape[1:]), tensor.dtype)

    return mapped(output, described)


def zeros(output: Any, features: Tensor) -> Any:
    """An output of zeros for as many images as there are features, and where these are."""

    def made(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(features.device)
        zero = torch.zeros((), dtype=value.dtype, device=features.device)
        return zero.expand(value.factor * len(features), *value.shape)

    return mapped(output, made)
