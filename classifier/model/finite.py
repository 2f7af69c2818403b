"""Whether losses are finite numbers, without letting a device wait for the answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor, distributed

# How many steps later the answer is read: a GPU has by then done the step long ago. A CPU computes
# when it is told to, so it knows at once.
LAG = {"cpu": 0, "cuda": 8}

Describe = Callable[[float], str | None]


class FiniteLosses:
    """Looks at every loss, on a GPU a few steps after its own.

    Reading a number from a GPU waits for all that it has been told to do so far. Here the number
    is copied beside that work, and read when it has arrived.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, Any, Describe]] = deque()

    def add(self, loss: Tensor, describe: Describe) -> str | None:
        """Take the loss of a step.

        All processes of a training must call it in every step.

        Args:
            loss: A scalar.
            describe: From the number that it was, where that is not finite, to what is wrong; None
                where that does not matter.

        Returns:
            What is wrong with a loss of this step or of an earlier one, in the words of the first
            process that has one: the same on all of them. None where nothing is.
        """
        self._waiting.append((*_sent(loss), describe))
        return self._look(LAG.get(loss.device.type, 0))

    def drain(self) -> str | None:
        """Look at all losses that were taken; returns what `add` does."""
        return self._look(0)

    def _look(self, lag: int) -> str | None:
        while len(self._waiting) > lag:
            numbers, arrived, describe = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            value, *of_all = numbers.tolist()
            if not isfinite(value) or any(of_all):
                problem = _first(None if isfinite(value) else describe(value))
                if problem is not None:
                    self._waiting.clear()
                    return problem
        return None


def _sent(loss: Tensor) -> tuple[Tensor, Any]:
    """A loss on its way to the CPU; of several processes also whether any of theirs is not finite.

    Returns:
        One number or two, and the event that says when they are there; None where they are.
    """
    numbers = loss.detach().float().reshape(1)
    if distributed.is_available() and distributed.is_initialized():
        is_bad = (~numbers.isfinite()).float()
        distributed.all_reduce(is_bad, op=distributed.ReduceOp.MAX)
        numbers = torch.cat([numbers, is_bad])
    if numbers.device.type != "cuda":
        return numbers, None
    there = torch.empty(numbers.shape, pin_memory=True)
    there.copy_(numbers, non_blocking=True)
    arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return there, arrived


def _first(own: str | None) -> str | None:
    """The problem of the first process that has one; all processes call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    problems: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(problems, own)
    return next((problem for problem in problems if problem is not None), None)
