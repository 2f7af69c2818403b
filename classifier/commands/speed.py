"""Precision, memory format and workers, measured before a training where they are left open."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from classifier.checkpoints import CONFIG_KEY
from classifier.commands.job import Job
from classifier.commands.prepare import Prepared
from classifier.commands.speed_kept import (
    FOLDER,
    decided_by_first,
    file_for,
    measured_once,
    recalled,
)
from classifier.commands.speed_probe import Choice, Open, is_long_enough, measure, named
from classifier.commands.trainer import build_trainer
from classifier.data.datamodule import ImageDataModule
from classifier.errors import reason_of
from classifier.measured import CHANNELS_LAST, PRECISION, WORKERS, is_open
from classifier.model.classifier import ImageClassifier
from classifier.model.step_times import Setting
from classifier.rank_launcher import launcher_of
from classifier.ranks import started_by_first
from classifier.runs import study_folder
from classifier.trees import lookup

log = logging.getLogger(__name__)

_CHOICE_VARIABLE = "CLASSIFIER_SPEED"  # what the first process tells those that it starts


def settle_speed(job: Job, prepared: Prepared, *, may_measure: bool = True) -> None:
    """Choose what is left open, and write it where the run is described.

    Args:
        job: Of a training.
        prepared: Its objects; the trainer is made anew where its precision changes.
        may_measure: False where too little is trained; what an earlier training has measured is
            taken all the same.
    """
    model, data = prepared.model, prepared.data
    if not (isinstance(model, ImageClassifier) and isinstance(data, ImageDataModule)):
        return
    left = _left_open(job, prepared)
    if not left:
        return
    if job.resumed is not None:
        choice = _as_before(prepared, job.resumed[CONFIG_KEY])
    else:
        choice = _told() if started_by_first() else _choice(job, prepared, left, may_measure)
    os.environ[_CHOICE_VARIABLE] = json.dumps(asdict(choice))
    assert model.network is not None
    if left.channels_last:
        model.network.use_channels_last(choice.channels_last)
        job.cli.set_value(CHANNELS_LAST, choice.channels_last)
    if left.num_workers:
        data.num_workers = choice.num_workers
        job.cli.set_value(WORKERS, choice.num_workers)
    if left.precision:
        job.cli.set_value(PRECISION, choice.precision)
        if choice.precision != prepared.trainer.precision:
            prepared.arguments["precision"] = choice.precision
            prepared.trainer = build_trainer(prepared.arguments, "train", prepared.monitor)
    if choice.told:
        when = f"in {choice.seconds:.1f} s" if choice.seconds else "by an earlier training"
        log.info("speed: %s (measured %s)", choice.told, when)


def _left_open(job: Job, prepared: Prepared) -> Open:
    given = job.cli.given["trainer"].get("precision")
    return Open(
        precision=is_open(given) and not prepared.arguments.get("plugins"),
        channels_last=prepared.model.options.channels_last is None,
        num_workers=prepared.data.auto_workers,
    )


def _as_before(prepared: Prepared, config: dict[str, Any]) -> Choice:
    """What a training that is resumed has been computed in so far."""
    usual = _usual(prepared)
    workers = lookup(config, WORKERS)
    precision, channels_last = lookup(config, PRECISION), lookup(config, CHANNELS_LAST)
    return Choice(
        usual.precision if is_open(precision) else str(precision),
        usual.channels_last if is_open(channels_last) else bool(channels_last),
        usual.num_workers if is_open(workers) else int(workers),
    )


def _usual(prepared: Prepared) -> Choice:
    """What holds where nothing is measured."""
    model, data, trainer = prepared.model, prepared.data, prepared.trainer
    return Choice(str(trainer.precision), model.network.channels_last, data.num_workers)


def _told() -> Choice:
    return Choice(**json.loads(os.environ[_CHOICE_VARIABLE]))


def _choice(job: Job, prepared: Prepared, left: Open, may_measure: bool) -> Choice:
    """Measured, remembered from an earlier measurement, or without one; of a study its first's."""
    usual = _usual(prepared)

    def find() -> Choice:
        return _found(job, prepared, left, usual, may_measure)

    study = study_folder()
    if study is None or not (left.precision or left.channels_last):
        return find()
    first, is_own = decided_by_first(study, prepared.model.model_name, left, find)
    if is_own:
        return first
    log.info(
        "speed: %s, as in the first training of %s with this model",
        named(Setting(first.precision, first.channels_last)), study.name,
    )  # fmt: skip
    same = replace(first, num_workers=usual.num_workers, told="", seconds=0.0)
    workers = Open(precision=False, channels_last=False, num_workers=left.num_workers)
    return _found(job, prepared, workers, same, may_measure) if workers else same


def _found(job: Job, prepared: Prepared, left: Open, usual: Choice, may_measure: bool) -> Choice:
    """Measured, remembered, or what is usual."""
    if reason := _why_not(prepared):
        log.debug("speed: nothing is measured: %s", reason)
        return usual
    may_measure = may_measure and is_long_enough(prepared)
    if not may_measure and not any(FOLDER.glob("*.json")):
        log.debug("speed: nothing is measured: the training is short")
        return usual
    file = file_for(prepared, job.cli.plain(), left, usual)
    if not may_measure:
        return recalled(file) or usual

    def find() -> Choice | None:
        try:
            with isolate_rng():
                return measure(prepared, left, usual)
        except Exception as error:  # the training itself is what may fail
            log.info("speed: nothing could be measured: %s", reason_of(error))
            return None

    return measured_once(file, find) or usual


def _why_not(prepared: Prepared) -> str | None:
    """Why nothing else is chosen; None where it may be."""
    trainer, data = prepared.trainer, prepared.data
    if trainer.fast_dev_run or trainer.overfit_batches:
        return "a part of a training is not worth it"
    if torch.are_deterministic_algorithms_enabled():
        return "what is faster differs from time to time"
    if trainer.num_devices * trainer.num_nodes > 1 and launcher_of(trainer) is None:
        return "processes that others started cannot be told"
    if trainer.strategy.root_device.type not in ("cpu", "cuda"):
        return "no other precision is known to work there"
    if data.encoder is not None:
        return "most of the network runs once for each image"
    return None
