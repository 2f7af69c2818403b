"""The configuration of a command: checkpoint, files and command line, as one tree."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.arguments import Command
from classifier.checkpoints import CONFIG_KEY, load_checkpoint
from classifier.config import SECTIONS, check_top_level, check_trusted, class_paths, parse_word
from classifier.importing import import_path
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.ranks import started_by_first, tell_checkpoint, told_checkpoint
from classifier.runs import find_checkpoint, newest_unfinished
from classifier.trees import merge, override

log = logging.getLogger(__name__)

# Of a checkpoint's trainer section, what evaluation keeps; hardware and limits are today's.
_KEPT_FOR_EVALUATION = ("callbacks", "precision")


class Assembly:
    """Puts a configuration together, and keeps what came with it.

    Args:
        command: What is asked for.
        layers: The configuration files' contents, later ones win.
        experiment: Name of the experiment where the configuration gives none.
    """

    def __init__(self, command: Command, layers: list[dict[str, Any]], experiment: str) -> None:
        self.command = command
        self.layers = layers
        self.experiment = experiment
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_file: Path | None = None
        self.sweep: dict[str, Any] = {}

    def configuration(self) -> dict[str, Any]:
        """Checkpoint < files < command line, as one tree."""
        files: dict[str, Any] = {}
        for layer in self.layers:
            files = merge(files, layer)
        words = [(key, parse_word(text)) for key, text in self.command.overrides]
        top = {**files, **{key: value for key, value in words if key not in SECTIONS}}
        self.experiment = str(top.get("custom_folder_name") or self.experiment)
        self._open_checkpoint(top)
        config = merge(self._saved(top), files)
        for key, value in words:
            override(config, key, value)
        if self.checkpoint is not None:
            # What the user's own words name is trusted; a checkpoint alone is data.
            named = {path.partition(".")[0] for _, path in class_paths([files, dict(words)])}
            allowed = frozenset(self.command.allowed) | named
            check_trusted(config, allowed, str(self.checkpoint_file))
            self._admit_network(allowed)
        check_top_level(config)
        return self._completed(config)

    def _open_checkpoint(self, top: Mapping[str, Any]) -> None:
        path = self.command.ckpt_path or top.get("ckpt_path")
        if path is None:
            return
        if path == "last" and self.command.mode in ("train", "lr_find"):
            # A further process would find that the run is resumed already: by the first one.
            found = told_checkpoint() if started_by_first() else newest_unfinished(self.experiment)
            tell_checkpoint(found)
            if found is None:
                log.info(
                    "ckpt_path: last: no unfinished run of %s, starting fresh", self.experiment
                )
                return
            log.info("ckpt_path: last: resuming %s", found)
        else:
            found = find_checkpoint(str(path))
        self.checkpoint_file = found.resolve()
        self.checkpoint = load_checkpoint(found)

    def _admit_network(self, allowed: frozenset[str]) -> None:
        """Import the module of a checkpoint's network if it is trusted; nothing imports it later.

        Args:
            allowed: Further top-level packages that the user trusts.
        """
        assert self.checkpoint is not None
        network = self.checkpoint.get(CHECKPOINT_KEY, {}).get("network", {})
        if network.get("source") != "module":
            return
        named = {name: network.get(name) for name in ("class_path", "model_args")}
        check_trusted({"network": named}, allowed, str(self.checkpoint_file))
        import_path(str(named["class_path"]), "ckpt_path")

    def _saved(self, top: Mapping[str, Any]) -> dict[str, Any]:
        """What the checkpoint's own configuration contributes."""
        training = self.command.mode in ("train", "check", "lr_find")
        if self.checkpoint is None or (training and top.get("only_weights_load") and self.layers):
            return {}
        # How its own training began does not say how this one does.
        saved: dict[str, Any] = {**self.checkpoint[CONFIG_KEY], "only_weights_load": False}
        if not top.get("custom_folder_name") and not self.layers:
            self.experiment = str(saved.get("custom_folder_name") or self.experiment)
        if not training:
            trainer = saved.get("trainer") or {}
            saved["trainer"] = {k: v for k, v in trainer.items() if k in _KEPT_FOR_EVALUATION}
        if self.command.paths:
            # The classes of the training's data sets need not be there to predict a file.
            saved = merge(saved, {"data": {"init_args": {"dataset_classes": None}}})
            saved["data"]["init_args"]["dataset_classes"] = {}
        return saved

    def _completed(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with what it leaves open filled in."""
        self.sweep = config.pop("optuna", None) or {}
        asked = any(key.startswith("optuna.") for key, _ in self.command.overrides)
        if asked and not self.sweep.get("tune"):
            log.warning("optuna.tune is not true: one training, no sweep")
        if config.get("seed_everything") is True:
            drawn = os.environ["PL_GLOBAL_SEED"] if started_by_first() else secrets.randbelow(2**31)
            config["seed_everything"] = int(drawn)
        config["custom_folder_name"] = self.experiment
        config["trainer"] = config.get("trainer") or {}
        # A resumed training, started anew, comes to the same; one from weights needs them again.
        keeps_path = bool(config.get("only_weights_load")) and self.checkpoint_file is not None
        config["ckpt_path"] = str(self.checkpoint_file) if keeps_path else None
        return config
