"""How often each number occurs, counted on a GPU without letting the training wait for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WAITING = ("cuda",)  # devices on which torch.bincount waits for all that they were told to do


class _CountsOnDevice(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.bincount:
            return bincount(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def bincount(numbers: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """What torch.bincount gives, without reading the smallest and the largest number first.

    Args:
        numbers: (N,) integers in [0, minlength).
        weights: Not for this; torch.bincount counts then.
        minlength: Length of the result; 0 asks torch.bincount, which has to look.
    """
    with torch._C.DisableTorchFunction():
        if weights is not None or minlength < 1:
            return torch.bincount(numbers, weights, minlength)
        counts = torch.zeros(minlength, dtype=torch.int64, device=numbers.device)
        return counts.scatter_add_(0, numbers.long(), torch.ones_like(numbers, dtype=torch.int64))


def without_waiting(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block torch.bincount lets no device wait.

    torchmetrics makes its confusion matrix by it, once a step, for all figures that follow from
    one. On a GPU it reads two numbers back, so that no step could be prepared while the one before
    is computed. Source: ATen/native/cuda/SummaryOps.cu, _bincount_cuda_template.

    Args:
        device: Of what is counted.
    """
    return _CountsOnDevice() if device.type in WAITING else nullcontext()
