"""--check: the configuration and all images are looked at, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from classifier.commands.frozen_features import check_feature_views
from classifier.commands.job import Job
from classifier.commands.monitors import known_names, logs_known_names_only
from classifier.commands.prepare import Prepared, looks_at_images, prepare
from classifier.data.datamodule import ImageDataModule
from classifier.files import write_text
from classifier.model.tasks import class_facts
from classifier.runs import Result, trial_folder
from classifier.terminal import show


def check(job: Job) -> Result | None:
    """Check a configuration as a training would, and then every image.

    Args:
        job: Of the mode check.

    Returns:
        None where there are no images to look at: in a sweep's own check, and with a data module
        of the user's own.

    Raises:
        ConfigError: all that training would refuse.
    """
    prepared = prepare(job)
    data = prepared.data
    check_feature_views(prepared.model, data, prepared.trainer)
    facts = _facts(job, prepared)
    lines = [data.summary()] if isinstance(data, ImageDataModule) else []
    lines += facts.get("lines", ())
    configs = ", ".join(job.command.configs)
    if not looks_at_images(job, data):
        for line in (f"{configs}: configuration and data are in order", *lines):
            show(line)
        folder = trial_folder()
        if folder is not None:
            write_text(Path(folder, "survey.json"), json.dumps(facts))
        return None
    from classifier.commands.check_data import check_data
    from classifier.data.checking import entries_of

    entries = entries_of(data)  # its mistakes are the configuration's: before a folder is made
    run = job.create_run()
    for line in (f"{configs}: the configuration can be read", *lines):
        show(line)
    strict, missing = job.command.strict, prepared.missing
    return job.carry_out(
        run, data, lambda: check_data(data, entries, run, job.experiment, strict, missing)
    )


def _facts(job: Job, prepared: Prepared) -> dict[str, Any]:
    """What a sweep's or a cross-validation's own check must know; it checks `optuna`, too."""
    classes = class_facts(prepared.data)
    facts: dict[str, Any] = {}
    if trial_folder() is not None:
        trainer = prepared.trainer
        facts = {
            "config": job.cli.plain(), "num_devices": trainer.num_devices * trainer.num_nodes,
            "class_names": classes["class_names"],
            "task": classes["task"] or getattr(prepared.model, "task", None),
        }  # fmt: skip
    if not job.sweep.get("tune"):
        return facts
    from classifier.commands.check_sweep import check_sweep  # imports optuna

    config = {key: value for key, value in job.cli.given.items() if key != "optuna"}
    found = check_sweep(
        config, job.cli.plain(), job.sweep, known_names(prepared.callbacks, prepared.data),
        prepared.trainer, class_facts=classes,
        closed=logs_known_names_only(prepared.callbacks, prepared.model),
    )  # fmt: skip
    return {**facts, **found}
