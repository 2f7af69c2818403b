"""ModelCost: what a model costs to keep and to use, logged beside its metrics."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP, _REPEATS = 3, 10


class ModelCost(Callback):
    """Logs num_parameters, num_flops and latency_seconds of one image, after every epoch.

    With it a sweep can look for models that are good and cheap. num_flops are those of
    convolutions, matrix products and attention in a forward pass, a multiplication and an addition
    counted as two. latency_seconds is the median of ten forward passes of one image on the device
    of the training, in eval mode: it depends on the machine and on what else runs there.
    """

    NAMES = ("num_parameters", "num_flops", "latency_seconds")

    def __init__(self) -> None:
        self.costs: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure once, on the first image of the training."""
        if not self.costs:
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            self.costs = {"num_parameters": float(parameters), **_measured(pl_module, batch[0][:1])}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log, so that metrics.csv and result.json hold them."""
        for name, value in self.costs.items():
            pl_module.log(name, value)


def _measured(model: L.LightningModule, image: Tensor) -> dict[str, float]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), model.trainer.precision_plugin.forward_context():
            with FlopCounterMode(display=False) as counter:
                model(image)
            times = [_seconds(model, image) for _ in range(_WARM_UP + _REPEATS)]
    finally:
        model.train(was_training)
    return {
        "num_flops": float(counter.get_total_flops()),
        "latency_seconds": statistics.median(times[_WARM_UP:]),
    }


def _seconds(model: L.LightningModule, image: Tensor) -> float:
    _wait_for(image.device)
    started = time.perf_counter()
    model(image)
    _wait_for(image.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
