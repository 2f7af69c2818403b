"""The largest batch that fits into memory: auto_batch_size of the data."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import lightning as L
import torch
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.seed import isolate_rng

from classifier.callbacks.finders import BATCH_SIZE
from classifier.commands.out_of_memory import AUTO_BATCH_SIZE, out_of_memory
from classifier.commands.trainer import TRYING, build_trainer
from classifier.errors import ConfigError, RunError
from classifier.model.classifier import ImageClassifier
from classifier.runs import Run
from classifier.signals import end_at_once, handling_signals

log = logging.getLogger(__name__)

_HARMLESS_RATE = 1e-12  # for steps that only fill the memory


def check_auto_batch_size(data: Any, trainer: Any) -> None:
    """Refuse to look for a batch size where Lightning cannot.

    Raises:
        ConfigError: several devices, or too little of a training.
    """
    if not getattr(data, "auto_batch_size", False):
        return
    if trainer.num_devices * trainer.num_nodes > 1:
        raise ConfigError(
            AUTO_BATCH_SIZE, "finds a size on one device only", got=True,
            remedy="Find it with trainer.devices: 1, and write it as data.init_args.batch_size",
        )  # fmt: skip
    if trainer.fast_dev_run:
        raise ConfigError(
            AUTO_BATCH_SIZE, "stands beside trainer.fast_dev_run, which trains too little for it",
            got=True, remedy="Write false",
        )  # fmt: skip


def find_batch_size(
    arguments: Mapping[str, Any], model: L.LightningModule, data: Any, run: Run
) -> int:
    """The largest power of two that fits into memory, at most the number of training images.

    It is tried on a copy of the model, with all layers trained that ever will be, at a learning
    rate of almost nothing, and with the random numbers put back: the training after it is the one
    that has this batch size written in its file.

    Args:
        arguments: The trainer's, of the configuration.
        model: Built.
        data: Set up, with `stage("train")`; not changed.
        run: The run folder.

    Raises:
        RunError: not even one image fits.
    """
    num_images = len(data.stage("train"))
    trial_model, trial_data = copy.deepcopy(model), copy.copy(data)
    if isinstance(trial_model, ImageClassifier):
        trial_model.scheduler_config = None
        trial_model.lr = _HARMLESS_RATE
        if trial_model.unfreeze_schedule is not None and trial_model.network is not None:
            trial_model.unfreeze_schedule = None
            trial_model.network.requires_grad_(True)
    trainer: Any = build_trainer({**arguments, **TRYING, "max_steps": -1}, "train", None)
    trainer._default_root_dir = str(run.folder)
    try:
        with (
            isolate_rng(), handling_signals(end_at_once), redirect_stdout(sys.stderr),
            _without_ends_of_fit(),
        ):  # fmt: skip
            # Lightning does not try a size of max_val itself, so it lies beyond all that matter.
            found = Tuner(trainer).scale_batch_size(
                trial_model, datamodule=trial_data, mode="power", max_val=2 * num_images + 2
            )
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        if trial_data.batch_size >= 1:
            raise
        full = str(out_of_memory(torch.OutOfMemoryError(), 1, "train"))
        raise RunError(f"{AUTO_BATCH_SIZE}: not even one image fits: {full}") from error
    size = min(int(found or data.batch_size), num_images)
    why = "all training images" if size == num_images else "the largest that fits into memory"
    log.info("auto_batch_size: %s is %d, %s", BATCH_SIZE, size, why)
    run.result.found[BATCH_SIZE] = size
    return size


@contextmanager
def _without_ends_of_fit() -> Iterator[None]:
    """Within the block Lightning does not tell that each of many short trainings has ended."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")

    def not_an_end(record: logging.LogRecord) -> bool:
        return "`Trainer.fit` stopped" not in record.getMessage()

    logger.addFilter(not_an_end)
    try:
        yield
    finally:
        logger.removeFilter(not_an_end)
