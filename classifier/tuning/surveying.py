"""A configuration checked in a process of its own, before many are started by it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError, Interrupted, RunError
from classifier.runs import ERROR
from classifier.tuning.ending import Ending
from classifier.tuning.following import tail
from classifier.tuning.launching import Launcher, kill, write_config

_POLL_SECONDS = 0.02


def survey(
    tree: Mapping[str, Any], launcher: Launcher, ending: Ending, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Check everything in a process that is gone afterwards, with what it took of a GPU.

    Args:
        tree: The configuration.
        launcher: Starts the process.
        ending: A signal ends the check.
        environment: Variables that differ from this process's.

    Returns:
        What --check has found out: config (resolved), num_devices of a training, and more.

    Raises:
        ConfigError: something is wrong with the configuration.
        RunError: the check failed.
        Interrupted: a signal came.
    """
    folder = Path(tempfile.mkdtemp(prefix="survey-"))
    try:
        file = folder / "config.yaml"
        write_config(file, tree)
        child = launcher.start(["--check", "--config", str(file)], folder, environment)
        try:
            while (code := child.poll()) is None:
                if ending.signum is not None:
                    raise Interrupted(ending.signum)
                time.sleep(_POLL_SECONDS)
        finally:
            kill(child)
        if code == 0:
            facts: dict[str, Any] = json.loads((folder / "survey.json").read_text())
            return facts
        if code == 2 and (folder / ERROR).is_file():
            raise ConfigError.worded((folder / ERROR).read_text(encoding="utf-8"))
        raise RunError(f"the check of the configuration ended with {code}:\n{tail(folder)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
