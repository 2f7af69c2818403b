"""EpochWeightAveraging: the mean of the weights at the ends of epochs, with BatchNorm that fits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from classifier.checkpoints import random_state, restore_random_state
from classifier.data.loading import ResumableLoader
from classifier.errors import ConfigError

log = logging.getLogger(__name__)


class EpochWeightAveraging(WeightAveraging):
    """Stochastic weight averaging: the equal mean of the weights at the ends of the last epochs.

    From `start_epoch` on, validation, best.ckpt, last.ckpt and the model after the training have
    the mean; before it, the weights themselves. Its BatchNorm statistics are measured anew on
    training images, because those of the epochs belong to other weights.

    Args:
        start_epoch: The first epoch, from 0, whose weights are averaged; a fraction of all epochs
            in (0, 1).
        batch_norm_batches: Training batches an epoch, from which BatchNorm is measured; null takes
            all. Networks without BatchNorm need none.

    Raises:
        ConfigError: no such epoch, or no such number of batches.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
        UAI 2018, algorithm 1: the last quarter of the training, one average an epoch.
    """

    def __init__(
        self, start_epoch: int | float = 0.75, batch_norm_batches: int | None = 100
    ) -> None:
        super().__init__(use_buffers=False)
        if not (0 < start_epoch < 1 or (start_epoch >= 0 and float(start_epoch).is_integer())):
            raise ConfigError(
                "start_epoch", "must be an epoch from 0 on or a fraction in (0, 1)",
                got=start_epoch, remedy="Write for example 0.75",
            )  # fmt: skip
        check_batches(batch_norm_batches)
        self.start_epoch = start_epoch
        self.batch_norm_batches = batch_norm_batches
        self._first = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle the first epoch, and make room for the mean."""
        if stage == "fit":
            self._first = _first_epoch(self.start_epoch, trainer.max_epochs)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Any, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the epoch's weights in, after its last batch: before the epoch is validated."""
        epoch, progress = trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress
        is_last = progress.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
        if not is_last or epoch < self._first or epoch <= self._latest_update_epoch:
            return
        assert self._average_model is not None
        self._average_model.update_parameters(pl_module)
        self._latest_update_step, self._latest_update_epoch = trainer.global_step, epoch
        if int(self._average_model.n_averaged) > 1:
            average: Any = self._average_model.module
            measure_batch_norm(average, trainer, trainer.datamodule, self.batch_norm_batches)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: the epoch was counted before its validation."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the mean in the model."""
        if self._has_mean():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the mean as the weights; before there is one, the weights themselves."""
        weights = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self._has_mean():
            own = {name for name, _ in pl_module.named_parameters()}
            own |= {name for name, _ in pl_module.named_buffers()}
            # Running means of metrics are no weights: a resume finds them in the raw state.
            checkpoint["state_dict"] |= {name: weights[name] for name in own if name in weights}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beside the weights."""
        return {**super().state_dict(), "latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._latest_update_epoch = state_dict["latest_update_epoch"]

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        if self._has_mean():
            super()._swap_models(pl_module)

    def _has_mean(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0


@torch.no_grad()
def measure_batch_norm(
    model: L.LightningModule, trainer: Any, data: Any, num_batches: int | None
) -> None:
    """Measure the BatchNorm statistics anew, on unmixed training images.

    Frozen layers keep theirs, which torch.optim.swa_utils.update_bn would set to 0 and 1. Random
    numbers of the training are left as they were.

    Args:
        model: On its device; its mode is kept.
        trainer: Whose precision and number of batches hold.
        data: The data module; None takes the trainer's own loader.
        num_batches: At most as many; None takes an epoch.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
        UAI 2018, section 3.2.
    """
    with _measuring(model) as layers:
        if not layers:
            return
        before = random_state()
        loader = trainer.train_dataloader if data is None else data.train_dataloader()
        if isinstance(loader, ResumableLoader):
            loader.num_batches_done = None  # from the first batch, wherever the epoch is
        limit = min(trainer.num_training_batches, num_batches or float("inf"))
        for batch in islice(loader, None if limit == float("inf") else int(limit)):
            values = batch[0].to(model.device)
            encoded = getattr(batch, "encoded", False)
            if values.is_floating_point() and not encoded:
                values = values.to(model.dtype)
            run: Any = model.prefix.finish if encoded else model  # type: ignore[union-attr]
            with trainer.precision_plugin.forward_context():
                run(values)
        restore_random_state(before)


@contextmanager
def _measuring(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Only the BatchNorm layers that are trained learn, each batch counting the same."""
    was_training = model.training
    model.train()
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats
    ]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield layers
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(was_training)


def tell_late_start(callbacks: Iterable[Any]) -> bool:
    """Say what Lightning's average is until its first update: the weights before the training.

    Args:
        callbacks: Of the trainer.

    Returns:
        Whether any of them averages weights.
    """
    averages = [c for c in callbacks if isinstance(c, WeightAveraging)]
    for callback in averages:
        for name in ("update_starting_at_step", "update_starting_at_epoch"):
            if getattr(callback, name, None):
                log.warning(
                    "%s.%s: until then validation and checkpoints have the weights from before "
                    "the training", type(callback).__name__, name,
                )  # fmt: skip
    return bool(averages)


def _first_epoch(start: int | float, epochs: int | None) -> int:
    if start == 0 or start >= 1:
        first = int(start)
    elif epochs is None or epochs < 1:
        raise ConfigError(
            "trainer.max_epochs", "EpochWeightAveraging.start_epoch is a fraction of it",
            got=epochs, remedy="Write a number of epochs",
        )  # fmt: skip
    else:
        first = round(start * epochs)
    if epochs is not None and 0 < epochs <= first:
        raise ConfigError(
            "trainer.max_epochs", f"EpochWeightAveraging would begin at epoch {first}, after the "
            "last one", got=epochs, remedy="Train for longer, or write a smaller start_epoch",
        )  # fmt: skip
    return first


def check_batches(number: int | None) -> None:
    """Refuse numbers of BatchNorm batches that cannot be.

    Args:
        number: As the user wrote it.
    """
    if number is not None and number < 1:
        raise ConfigError(
            "batch_norm_batches", "must be at least 1", got=number, remedy="Write 100, or null"
        )
