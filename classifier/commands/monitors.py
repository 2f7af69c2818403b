"""The metrics that a training will log, and the monitors that may follow them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    WeightAveraging,
)

from classifier.callbacks.cost import ModelCost
from classifier.callbacks.metrics import MetricsLogger
from classifier.callbacks.soup import check_soup
from classifier.errors import ConfigError

log = logging.getLogger(__name__)

_PREFERRED_MONITOR = "validation_f1_score"
_LOSS = "loss"


def default_monitor(
    callbacks: Iterable[Callback], data: L.LightningDataModule
) -> tuple[str, str] | None:
    """The metric and mode that choose the best checkpoint when the user names none."""
    if not _has_validation(data):
        return None
    if _PREFERRED_MONITOR in known_names(callbacks, data):
        return _PREFERRED_MONITOR, "max"
    log.info("no metric is called %s: best.ckpt follows validation_loss", _PREFERRED_MONITOR)
    return "validation_loss", "min"


def check_monitors(
    callbacks: Sequence[Callback],
    model: L.LightningModule,
    data: L.LightningDataModule,
) -> None:
    """Refuse a monitor that will not be logged, or one whose mode keeps the worst epoch.

    With callbacks or a model of the user's own, which may log names of their own, unknown names
    are left to Lightning.

    Args:
        callbacks: The configuration's, instantiated.
        model: Whose schedule may have a monitor.
        data: Without validation data nothing of that stage is logged.

    Raises:
        ConfigError: lists the names that will be logged.
    """
    names = known_names(callbacks, data)
    closed = logs_known_names_only(callbacks, model)
    check_soup(callbacks)
    averages = [type(item).__name__ for item in callbacks if isinstance(item, WeightAveraging)]
    if len(averages) > 1:
        raise ConfigError(
            "trainer.callbacks", f"{' and '.join(averages)} would each put its own average in "
            "place of the weights", remedy="Keep one of them",
        )  # fmt: skip
    for key, monitor, mode in _monitors(callbacks, model):
        if monitor not in names and closed:
            raise ConfigError(
                key, "this metric will not be logged", got=monitor,
                remedy=f"The names are {', '.join(names)}", name=monitor, options=names,
            )  # fmt: skip
        if mode is not None and names.get(monitor) is not None:
            right = "max" if names[monitor] else "min"
            if mode != right:
                raise ConfigError(
                    key.removesuffix("monitor") + "mode",
                    f"{mode} would look for the worst {monitor}", got=mode,
                    remedy=f"Write mode: {right}",
                )  # fmt: skip


def _monitors(
    callbacks: Sequence[Callback], model: L.LightningModule
) -> Iterator[tuple[str, str, str | None]]:
    for index, callback in enumerate(callbacks):
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor:
            key = f"trainer.callbacks.{index}.init_args.monitor"
            yield key, callback.monitor, callback.mode
    schedule = getattr(model, "scheduler_config", None) or {}
    if "monitor" in schedule:
        key = "model.init_args.scheduler_config.monitor"
        yield key, schedule["monitor"], schedule.get("mode")


def known_names(
    callbacks: Iterable[Callback], data: L.LightningDataModule
) -> dict[str, bool | None]:
    """Names that a training logs -> whether higher is better."""
    callbacks = list(callbacks)
    loggers = [c for c in callbacks if isinstance(c, MetricsLogger)] or [MetricsLogger()]
    names: dict[str, bool | None] = {}
    for stage in ("train", "validation"):
        if stage == "train" or _has_validation(data):
            names[f"{stage}_{_LOSS}"] = False
            for logger in loggers:
                names |= logger.names(stage)
    if any(isinstance(callback, ModelCost) for callback in callbacks):
        names |= dict.fromkeys(ModelCost.NAMES, False)
    return names


def logs_known_names_only(callbacks: Iterable[Callback], model: L.LightningModule) -> bool:
    """Whether no class of the user's own takes part, which may log names of its own."""
    return all(_is_known(item) for item in (model, *callbacks))


def _has_validation(data: L.LightningDataModule) -> bool:
    return bool(getattr(data, "has_validation", lambda: True)())


def _is_known(item: Any) -> bool:
    return type(item).__module__.partition(".")[0] in ("classifier", "lightning")
