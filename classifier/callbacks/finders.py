"""What Lightning's finders found, told and kept where a run is described."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder

from classifier.callbacks.recorder import RunRecorder
from classifier.model.optimizers import rate_keys
from classifier.model.parameter_groups import OPTIMIZER
from classifier.trees import override

log = logging.getLogger(__name__)

BATCH_SIZE = "data.init_args.batch_size"
FINDERS = (BatchSizeFinder, LearningRateFinder)


class FinderRecord(Callback):
    """Says in the log, in result.json and in every checkpoint what a finder has changed.

    Args:
        recorder: Of the run.
    """

    def __init__(self, recorder: RunRecorder) -> None:
        self.recorder = recorder
        self._before: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note the values that the finders may change; they run after this."""
        self._before = settings(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell what has changed."""
        now = settings(trainer, pl_module)
        changed = {key: value for key, value in now.items() if self._before.get(key) != value}
        for key, value in changed.items():
            log.info("found: %s is %.6g, it was %s", key, value, self._before.get(key))
            override(self.recorder.config, key, value)
        self.recorder.run.result.found |= changed


def settings(trainer: Any, model: Any) -> dict[str, Any]:
    """The batch size and the learning rates that a training has, by their dotted keys."""
    found: dict[str, Any] = {}
    optimizer = getattr(model, "optimizer_config", None)
    if isinstance(optimizer, Mapping):
        found |= {f"{OPTIMIZER}.{key}": optimizer[key] for key in rate_keys(optimizer)}
    size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return found if size is None else {**found, BATCH_SIZE: size}


def keep_rates(model: Any, checkpoint: Mapping[str, Any]) -> None:
    """Go on with the learning rates that a checkpoint was trained with.

    Args:
        model: As the configuration made it.
        checkpoint: What is resumed.
    """
    optimizer = checkpoint.get("hyper_parameters", {}).get("optimizer_config")
    if optimizer and hasattr(model, "optimizer_config"):
        rates = {key: optimizer[key] for key in rate_keys(optimizer)}
        model.optimizer_config |= rates
        model.hparams["optimizer_config"] = dict(model.optimizer_config)
        log.info("resumed: no search for a learning rate, %s is the checkpoint's", rates)


def keep_batch_size(data: Any, saved: Mapping[str, Any]) -> None:
    """Go on with the batch size that a checkpoint was trained with.

    Args:
        data: As the configuration made it.
        saved: The configuration that the checkpoint carries.
    """
    size = ((saved.get("data") or {}).get("init_args") or {}).get("batch_size")
    if size is not None:
        data.batch_size = size
        log.info("resumed: no search for a batch size, %s is the checkpoint's", size)
