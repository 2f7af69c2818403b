"""The trainer of a run: its defaults, what it writes where, and what it came to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from classifier.callbacks.finders import FINDERS, FinderRecord
from classifier.callbacks.metrics import MetricsLogger
from classifier.callbacks.progress import LINE_EVERY_SECONDS, ImageRate, ImagesBar
from classifier.callbacks.recorder import BestLink, BestMetrics, EpochLine, RunRecorder
from classifier.callbacks.table import MetricsTable
from classifier.checkpoint_writing import WholeFileIO
from classifier.errors import ConfigError, reason_of
from classifier.rank_launcher import take_over_launching
from classifier.ranks import set_rank
from classifier.runs import BEST, LAST, Run

log = logging.getLogger(__name__)

REFRESH_RATE = 20  # batches between two draws of the progress bar
# Arguments of a trainer that tries something and keeps nothing of it.
TRYING = {
    "callbacks": None, "logger": None, "num_sanity_val_steps": 0, "enable_checkpointing": False,
    "max_time": None, "min_epochs": None, "min_steps": None, "max_epochs": -1,
}  # fmt: skip

# Arguments of which 0 is a training without a step -> what to write instead.
_AT_LEAST_ONE = {
    "max_epochs": "Write 1 or more",
    "max_steps": "Write 1 or more, or leave it out for no limit",
    "limit_train_batches": "Write a number of batches or a fraction of them, or leave it out",
}


def build_trainer(
    arguments: Mapping[str, Any], mode: str, monitor: tuple[str, str] | None
) -> L.Trainer:
    """The trainer of a configuration, with the defaults that the user did not replace.

    Args:
        arguments: Of lightning.Trainer, callbacks instantiated.
        mode: train, validate, test, predict or lr_find.
        monitor: Metric and mode by which the best checkpoint is chosen by default; None without
            validation data.

    Raises:
        ConfigError: the trainer refuses its arguments.
    """
    arguments = dict(arguments)
    loggers = arguments.pop("logger", None)
    callbacks = as_list(arguments.pop("callbacks", None))
    plugins = as_list(arguments.pop("plugins", None))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFileIO())
    bar = _add_progress(callbacks, mode, arguments.get("enable_progress_bar") is not False)
    if not bar:
        arguments["enable_progress_bar"] = False
    if arguments.get("enable_model_summary") is None:
        arguments["enable_model_summary"] = False  # the log says what is trained, in one line
    if mode != "train":
        arguments["devices"] = _one_device(arguments.get("devices", "auto"))
    callbacks = _with_defaults(callbacks, mode, monitor, arguments)
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        # Lightning would add a saver of its own; `attach_checkpoints` has what a run is to leave.
        arguments["enable_checkpointing"] = False
    try:
        trainer = L.Trainer(**arguments, callbacks=callbacks, plugins=plugins, logger=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        reason = reason_of(error)
        raise ConfigError("trainer", reason) from error
    take_over_launching(trainer)
    set_rank(trainer.global_rank)
    given = loggers if isinstance(loggers, list) else [loggers]
    trainer.loggers = [item for item in given if isinstance(item, L.pytorch.loggers.Logger)]
    return trainer


def check_trains(arguments: Mapping[str, Any]) -> None:
    """Refuse a training without a step, which would leave no checkpoint and no figures.

    Args:
        arguments: Of lightning.Trainer.

    Raises:
        ConfigError: names the key that leaves nothing to train.
    """
    if arguments.get("fast_dev_run"):
        return  # it trains its own number of batches, whatever these say
    for name, remedy in _AT_LEAST_ONE.items():
        value = arguments.get(name)
        if value is not None and not isinstance(value, bool) and value == 0:
            raise ConfigError(f"trainer.{name}", "trains nothing", got=value, remedy=remedy)


def _add_progress(callbacks: list[Callback], mode: str, wanted: bool) -> bool:
    """Add what shows how a run goes on.

    Args:
        callbacks: Changed in place; a progress bar of the user's own stays the only one.
        mode: As `build_trainer` takes it.
        wanted: Whether a progress bar may be drawn.

    Returns:
        Whether one is.
    """
    own = any(isinstance(callback, ProgressBar) for callback in callbacks)
    drawn = own or (wanted and sys.stderr.isatty())
    if mode in ("train", "lr_find"):
        if drawn and not own:
            callbacks.append(TQDMProgressBar(refresh_rate=REFRESH_RATE))
        return drawn
    rate = ImageRate(None if drawn else LINE_EVERY_SECONDS)
    callbacks.append(rate)
    if drawn and not own:
        callbacks.append(ImagesBar(rate))
    return drawn


def as_list(value: Any) -> list[Any]:
    """What Lightning takes as one thing, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _one_device(devices: Any) -> Any:
    """Evaluation runs on one device: padding for several would count images twice.

    Raises:
        ConfigError: the user asks for several.
    """
    if devices == "auto":
        return 1
    if devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1):
        return devices
    raise ConfigError(
        "trainer.devices", "validation, test, prediction and lr_find run on one device",
        got=devices, remedy="Write 1",
    )  # fmt: skip


def _with_defaults(
    callbacks: list[Callback], mode: str, monitor: tuple[str, str] | None, arguments: dict[str, Any]
) -> list[Callback]:
    if not any(isinstance(callback, MetricsLogger) for callback in callbacks):
        callbacks.append(MetricsLogger())
    # First, so that EarlyStopping and schedulers see this epoch's values.
    callbacks.sort(key=lambda callback: not isinstance(callback, MetricsLogger))
    if mode != "train":
        return [c for c in callbacks if not isinstance(c, Checkpoint | EarlyStopping)]
    if arguments.get("enable_checkpointing") is False or arguments.get("fast_dev_run"):
        return [c for c in callbacks if not isinstance(c, Checkpoint)]
    if monitor is not None and not any(
        isinstance(c, ModelCheckpoint) and c.monitor for c in callbacks
    ):
        callbacks.append(ModelCheckpoint(monitor=monitor[0], mode=monitor[1], save_top_k=1))
    return callbacks


def attach(trainer: Any, run: Run, recorder: RunRecorder, history: Path | None) -> None:
    """Let a trainer write into a run folder.

    Args:
        trainer: As `build_trainer` made it.
        run: The folder.
        recorder: Keeps configuration and random state; obeys signals.
        history: metrics.csv of the run that is resumed.
    """
    log.info(
        "precision %s on %d x %s",
        trainer.precision, trainer.num_devices, trainer.strategy.root_device.type,
    )  # fmt: skip
    # After the metrics: what it saves on a signal then counts the batch just done.
    trainer.callbacks.extend([recorder, EpochLine()])
    if any(isinstance(callback, FINDERS) for callback in trainer.callbacks):
        trainer.callbacks.append(FinderRecord(recorder))
    if trainer.fast_dev_run:
        return
    table = MetricsTable(run.folder, history if run.writes else None, recorder.resumed_step)
    trainer.loggers = [*trainer.loggers, table]


def attach_checkpoints(trainer: Any, run: Run) -> None:
    """Let a training keep its checkpoints in the run folder.

    Args:
        trainer: As `build_trainer` made it.
        run: The folder.
    """
    savers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
    last = _last_saver(run.checkpoints)
    main = next(saver for saver in [*savers, last] if saver.monitor or saver is last)
    for saver in savers:
        _place(saver, run.checkpoints, is_main=saver is main)
    # Before `last`, whose checkpoint holds what it remembers.
    trainer.callbacks.extend([BestMetrics(main), last, BestLink(main, run.checkpoints)])


def _place(saver: ModelCheckpoint, folder: Path, is_main: bool) -> None:
    """Give a checkpoint callback what the user left open: its folder, and best.ckpt as name."""
    if saver.dirpath is None:
        saver.dirpath = str(folder.resolve())
        saver.save_last = None  # last.ckpt is written by a callback of its own
        if is_main and saver.filename is None and saver.save_top_k == 1:
            saver.filename = Path(BEST).stem
            saver._enable_version_counter = False


def _last_saver(folder: Path) -> ModelCheckpoint:
    """Writes last.ckpt after every epoch. Lightning's save_last does so only with a new best."""
    saver = ModelCheckpoint(
        dirpath=folder.resolve(),
        filename=Path(LAST).stem,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )
    # As after its first save: what others save before it is then the same as what it saves.
    saver.best_model_path = str(folder.resolve() / LAST)
    return saver


def collect(trainer: Any, run: Run) -> None:
    """Copy what the trainer knows into the run's result."""
    result = run.result
    result.precision = str(trainer.precision)
    result.metrics = {
        name: float(value)
        for name, value in sorted(trainer.callback_metrics.items())
        if not name.endswith("_step")
    }
    if result.mode != "train":
        return
    for callback in trainer.callbacks:
        if isinstance(callback, BestMetrics):
            result.best_metrics = callback.metrics
            if callback.source.monitor and callback.source.best_model_score is not None:
                result.monitor = callback.source.monitor
                result.best_score = float(callback.source.best_model_score)
    result.num_steps = trainer.global_step
    result.num_epochs = trainer.fit_loop.epoch_progress.current.completed
    for name, field in ((BEST, "best_checkpoint"), (LAST, "last_checkpoint")):
        file = run.checkpoints / name
        if file.is_file():
            setattr(result, field, file.relative_to(run.folder).as_posix())
