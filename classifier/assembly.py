"""The configuration of a command: checkpoint, files and command line, as one tree."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.arguments import MODES, Command
from classifier.checkpoints import CONFIG_KEY, load_checkpoint
from classifier.config import (
    SECTIONS,
    assembled,
    check_top_level,
    check_trusted,
    class_paths,
    for_evaluation,
    parse_word,
)
from classifier.importing import import_path
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.ranks import started_by_first, tell_checkpoint, told_checkpoint
from classifier.runs import find_checkpoint, newest_unfinished
from classifier.trees import merge, override

log = logging.getLogger(__name__)


@dataclass
class Assembled:
    """A command's configuration, and what came with it.

    Args:
        config: The whole tree, without the section optuna.
        sweep: The section optuna; empty without one.
        experiment: Name of the experiment.
        checkpoint: What is resumed, taken weights from, or evaluated; None without one.
        checkpoint_file: Where it lies.
        goes_on: It was found as the newest unfinished run, whatever of that is missing.
    """

    config: dict[str, Any]
    sweep: dict[str, Any]
    experiment: str
    checkpoint: dict[str, Any] | None
    checkpoint_file: Path | None
    goes_on: bool = False


def assemble(command: Command, layers: list[dict[str, Any]], experiment: str) -> Assembled:
    """Checkpoint < files < command line.

    Args:
        command: What is asked for.
        layers: The configuration files' contents, later ones win.
        experiment: Name of the experiment where the configuration gives none.

    Raises:
        ConfigError: there is no such checkpoint or key, or the checkpoint names code that is not
            trusted.
    """
    files = assembled(layers, ())
    words = [(key, parse_word(text)) for key, text in command.overrides]
    top = {**files, **{key: value for key, value in words if key not in SECTIONS}}
    named = top.get("custom_folder_name")
    experiment = str(named or experiment)
    found = _find_checkpoint(command, top, experiment)
    checkpoint = None if found is None else load_checkpoint(found)
    file = None if found is None else found.resolve()
    saved = {} if checkpoint is None else _saved(command, checkpoint, top, alone=not layers)
    if not named and not layers:
        experiment = str(saved.get("custom_folder_name") or experiment)
    config = merge(saved, files)
    for key, value in words:
        override(config, key, value)
    if checkpoint is not None:
        # What the user's own words name is trusted; a checkpoint alone is data.
        own = {path.partition(".")[0] for _, path in class_paths([files, dict(words)])}
        allowed = frozenset(command.allowed) | own
        check_trusted(config, allowed, str(file))
        _admit_network(checkpoint, allowed, str(file))
    check_top_level(config)
    sweep = config.pop("optuna", None) or {}
    if any(key.startswith("optuna.") for key, _ in words) and not sweep.get("tune"):
        log.warning("optuna.tune is not true: one training, no sweep")
    _complete(config, experiment, file)
    last = (command.ckpt_path or top.get("ckpt_path")) == "last"
    return Assembled(config, sweep, experiment, checkpoint, file, last and file is not None)


def _find_checkpoint(command: Command, top: Mapping[str, Any], experiment: str) -> Path | None:
    path = command.ckpt_path or top.get("ckpt_path")
    if path is None:
        return None
    if path != "last" or not MODES[command.mode].resumes_last:
        return find_checkpoint(str(path))
    # A further process would find that the run is resumed already: by the first one.
    found = told_checkpoint() if started_by_first() else newest_unfinished(experiment)
    tell_checkpoint(found)
    if found is None:
        log.info("ckpt_path: last: no unfinished run of %s, starting fresh", experiment)
        return None
    log.info("ckpt_path: last: resuming %s", found)
    return found


def _saved(
    command: Command, checkpoint: Mapping[str, Any], top: Mapping[str, Any], *, alone: bool
) -> dict[str, Any]:
    """What the checkpoint's own configuration contributes; `alone`, where no file does."""
    training = MODES[command.mode].trains
    if training and top.get("only_weights_load") and not alone:
        return {}
    # How its own training began does not say how this one does.
    saved: dict[str, Any] = {**checkpoint[CONFIG_KEY], "only_weights_load": False}
    return saved if training else for_evaluation(saved, of_paths=bool(command.paths))


def _admit_network(checkpoint: Mapping[str, Any], allowed: frozenset[str], source: str) -> None:
    """Import the module of a checkpoint's network if it is trusted; nothing imports it later."""
    network = checkpoint.get(CHECKPOINT_KEY, {}).get("network", {})
    if network.get("source") != "module":
        return
    named = {name: network.get(name) for name in ("class_path", "model_args")}
    check_trusted({"network": named}, allowed, source)
    import_path(str(named["class_path"]), "ckpt_path")


def _complete(config: dict[str, Any], experiment: str, checkpoint_file: Path | None) -> None:
    """Fill in what a configuration leaves open, in place."""
    if config.get("seed_everything") is True:
        drawn = os.environ["PL_GLOBAL_SEED"] if started_by_first() else secrets.randbelow(2**31)
        config["seed_everything"] = int(drawn)
    config["custom_folder_name"] = experiment
    config["trainer"] = config.get("trainer") or {}
    # A resumed training, started anew, comes to the same; one from weights needs them again.
    keeps_path = bool(config.get("only_weights_load")) and checkpoint_file is not None
    config["ckpt_path"] = str(checkpoint_file) if keeps_path else None
