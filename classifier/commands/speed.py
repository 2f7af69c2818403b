"""Precision, memory format and workers, measured before a training where they are left open."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch.utilities.seed import isolate_rng

from classifier.checkpoints import CONFIG_KEY
from classifier.commands.job import Job
from classifier.commands.prepare import Prepared
from classifier.commands.speed_probe import Choice, Open, measure, planned_steps
from classifier.commands.trainer import build_trainer
from classifier.cores import usable_cores
from classifier.data.datamodule import ImageDataModule
from classifier.files import write_text
from classifier.measured import CHANNELS_LAST, PRECISION, WORKERS, is_open
from classifier.model.classifier import ImageClassifier
from classifier.rank_launcher import launcher_of
from classifier.ranks import started_by_first
from classifier.runs import RUNS
from classifier.trees import lookup

log = logging.getLogger(__name__)

FOLDER = RUNS / ".speed"
_CHOICE_VARIABLE = "CLASSIFIER_SPEED"  # what the first process tells those that it starts

_MIN_STEPS = 100  # of a training for which measuring can pay


def settle_speed(job: Job, prepared: Prepared) -> None:
    """Choose what is left open, and write it where the run is described.

    Args:
        job: Of a training.
        prepared: Its objects; the trainer is made anew where its precision changes.
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
        choice = _told() if started_by_first() else _choice(prepared, left)
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
        usual.channels_last if channels_last is None else bool(channels_last),
        usual.num_workers if is_open(workers) else int(workers),
    )


def _usual(prepared: Prepared) -> Choice:
    """What holds where nothing is measured."""
    model, data, trainer = prepared.model, prepared.data, prepared.trainer
    return Choice(str(trainer.precision), model.network.channels_last, data.num_workers)


def _told() -> Choice:
    return Choice(**json.loads(os.environ[_CHOICE_VARIABLE]))


def _choice(prepared: Prepared, left: Open) -> Choice:
    """Measured, remembered from an earlier measurement, or without one."""
    usual = _usual(prepared)
    if reason := _why_not(prepared):
        log.debug("speed: nothing is measured: %s", reason)
        return usual
    file = FOLDER / f"{_key(prepared, left)}.json"
    if not file.is_file() and planned_steps(prepared) < _MIN_STEPS:
        log.debug("speed: nothing is measured: the training is short")
        return usual
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # of trials that begin together one measures
        if file.is_file():
            return replace(Choice(**json.loads(file.read_text(encoding="utf-8"))), seconds=0.0)
        try:
            with isolate_rng():
                found = measure(prepared, left, usual)
        except torch.OutOfMemoryError:
            log.info("speed: there is no memory to measure in")
            return usual
        if found is None:
            return usual
        write_text(file, json.dumps(asdict(found), indent=2) + "\n")
        return found


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


def _key(prepared: Prepared, left: Open) -> str:
    """Equal where the same would be measured: model, shapes, hardware, versions."""
    model, data, trainer = prepared.model, prepared.data, prepared.trainer
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    trained = [p.requires_grad for p in model.network.parameters()]
    facts = [
        model.network.spec, model.optimizer_config.get("name"), len(trained), sum(trained),
        data.batch_size, data.stage("train").pipeline.name, data.create_dataset, device.type, name,
        torch.backends.cpu.get_cpu_capability(), usable_cores(), torch.get_num_threads(),
        torch.__version__, str(trainer.precision), left,
    ]  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
