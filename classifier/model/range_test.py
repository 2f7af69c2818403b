"""What a model does in Lightning's learning-rate range test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.tuner.lr_finder import _LRCallback
from torch.optim import Optimizer


def ends_range_test(trainer: Any) -> bool:
    """Whether a loss that is not finite ends a range test, and not a training.

    The test raises the learning rate until the training diverges, and then takes the weights back.

    Args:
        trainer: Running; it is told to stop where this is a range test.
    """
    if not any(isinstance(callback, _LRCallback) for callback in trainer.callbacks):
        return False
    trainer.should_stop = True
    return True


@contextmanager
def in_proportion(optimizer: Optimizer) -> Iterator[None]:
    """Within the block every parameter group learns at its share of the rate that is written.

    The range test writes one rate into all groups. With layer-wise decay, or another rate for the
    head, the training has several, and the test is to be of that training.

    Args:
        optimizer: Its groups hold the rates of the training.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    highest = max(rates)
    shares = [rate / highest if highest else 1.0 for rate in rates]
    written: list[float] = []

    def scale(*_: Any) -> None:
        written[:] = [group["lr"] for group in optimizer.param_groups]
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] *= share

    def restore(*_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, written, strict=True):
            group["lr"] = rate

    hooks = [
        optimizer.register_step_pre_hook(scale),
        optimizer.register_step_post_hook(restore),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
