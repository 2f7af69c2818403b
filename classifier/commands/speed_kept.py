"""What was chosen, kept: for the next training of the same, and for all trainings of a study."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch.utilities.seed import isolate_rng

from classifier.commands.prepare import Prepared
from classifier.commands.speed_probe import Choice, Open
from classifier.cores import usable_cores
from classifier.errors import reason_of
from classifier.files import write_text
from classifier.runs import RUNS
from classifier.trees import lookup

log = logging.getLogger(__name__)

FOLDER = RUNS / ".speed"
OF_STUDY = "speed.json"  # in the study's folder
_PATIENCE = 120.0  # seconds: longer than a measurement of another training takes

_DATA = "data.init_args"
_SETTINGS = (
    f"{_DATA}.dataset_classes.train", f"{_DATA}.augmentations.train", f"{_DATA}.cache_size",
)  # fmt: skip


def file_for(prepared: Prepared, tree: Any, left: Open, usual: Choice) -> Path:
    """Where a choice is kept: one file for trainings in which the same would be measured.

    These have the same model, batch size, training data and augmentations, size of images,
    hardware and versions. Loads the first image; draws no random numbers.

    Args:
        prepared: Of the training.
        tree: Its configuration, resolved.
        left: What may be chosen.
        usual: What holds where nothing is gained.
    """
    model, data, trainer = prepared.model, prepared.data, prepared.trainer
    device, stage = trainer.strategy.root_device, data.stage("train")
    with isolate_rng(include_cuda=False):
        shape = tuple(stage[0][0].shape)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    trained = [p.requires_grad for p in model.network.parameters()]
    settings = json.dumps([lookup(tree, key) for key in _SETTINGS], sort_keys=True, default=str)
    facts = [
        model.network.spec, model.optimizer_config.get("name"), len(trained), sum(trained),
        data.batch_size, shape, stage.pipeline.name, settings, data.create_dataset, device.type,
        name, torch.backends.cpu.get_cpu_capability(), usable_cores(), torch.get_num_threads(),
        torch.__version__, usual.precision, left.channels_last or usual.channels_last, left,
    ]  # fmt: skip
    return FOLDER / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.json"


def recalled(file: Path) -> Choice | None:
    """What an earlier training has measured; None where none has, or another version did.

    Args:
        file: Where it is kept.
    """
    found = Choice.read(_read(file))
    return None if found is None else replace(found, seconds=0.0)


def _read(file: Path) -> Any:
    """The content; None where there is none. What is kept here can be had again."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.info("speed: %s is not used: %s", file, reason_of(error))
        return None


def measured_once(file: Path, find: Callable[[], Choice | None]) -> Choice | None:
    """Of trainings that begin together one measures, and the others take what it has found.

    Where nothing can be kept each measures for itself.

    Args:
        file: Where it is kept.
        find: Measures; None where it comes to nothing, which is not kept.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        acquired = FileLock(f"{file}.lock").acquire(timeout=_PATIENCE)
    except OSError as error:
        log.info("speed: %s keeps nothing: %s", file.parent, reason_of(error))
        return find()
    with acquired as lock:
        known = recalled(file)
        if known is not None:
            return known
        found = find()
        if found is not None:
            write_text(file, json.dumps(asdict(found), indent=2) + "\n")
        else:
            # Whoever waits for the file that is gone may measure beside the next one: no harm.
            os.unlink(lock.lock_file)
        return found


def decided_by_first(
    study: Path, model_name: str, left: Open, find: Callable[[], Choice]
) -> tuple[Choice, bool]:
    """The choice of the first training of a study with a model, which holds for all of them.

    Args:
        study: Folder of the study.
        model_name: Of the model.
        left: What may be chosen; trials in which other keys are open decide on their own.
        find: Decides, in the first one: also that nothing is measured.

    Returns:
        The choice, and whether this training is the first one.
    """
    file = study / OF_STUDY
    names = [name for name in ("precision", "channels_last") if getattr(left, name)]
    key = f"{model_name}: {', '.join(names)}"
    with FileLock(study / f".{OF_STUDY}.lock"):
        content = _read(file)
        known = content if isinstance(content, dict) else {}
        earlier = Choice.read(known.get(key))
        if earlier is not None:
            return earlier, False
        found = find()
        known[key] = asdict(found)
        write_text(file, json.dumps(known, indent=2) + "\n")
        return found, True
