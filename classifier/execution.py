"""One command, from its configuration to its result."""

from __future__ import annotations

import traceback
import warnings
from importlib import import_module
from typing import Any

import yaml

from classifier.arguments import Command
from classifier.assembly import assemble
from classifier.cli import ClassifierCLI, print_all_keys
from classifier.commands.job import Job
from classifier.errors import ConfigError, RunError
from classifier.ranks import exit_with_first, leave_error, started_by_first
from classifier.runs import Result
from classifier.terminal import Log, quiet_known_noise, without_traceback

# Mode -> module of classifier/commands, and its function; imported when it is asked for.
COMMANDS = {
    "train": ("train", "train"),
    "validate": ("evaluate", "evaluate"),
    "test": ("evaluate", "evaluate"),
    "predict": ("evaluate", "evaluate"),
    "explain": ("explain", "explain"),
    "export": ("export", "export_model"),
    "check": ("check", "check"),
    "lr_find": ("lr_find", "find_learning_rate"),
    "push_to_hub": ("push", "push_to_hub"),
    "verify_repro": ("verify_repro", "verify_repro"),
}


def execute(
    command: Command, layers: list[dict[str, Any]], experiment: str, started: float
) -> Result | None:
    """Carry out a command.

    Args:
        command: What is asked for.
        layers: The configuration files' contents, later ones win.
        experiment: Name of the experiment where the configuration gives none.
        started: time.time() at the start.

    Returns:
        The result; None when nothing ran.
    """
    record = Log()
    record.start()
    if started_by_first():
        exit_with_first()
    try:
        with warnings.catch_warnings():
            quiet_known_noise()
            if command.help == "all":
                print_all_keys()
                return None
            assembled = assemble(command, layers, experiment)
            cli = ClassifierCLI(assembled.config)
            if command.print_config:
                _print_config(cli, assembled.sweep)
                return None
            module, name = COMMANDS[command.mode]
            function = getattr(import_module(f"classifier.commands.{module}"), name)
            result: Result | None = function(Job(command, assembled, cli, started, record))
            return result
    except Exception as error:
        if not started_by_first():
            raise
        known = isinstance(error, ConfigError | RunError)
        leave_error(without_traceback(error) if known else traceback.format_exc())
        raise RunError(str(error)) from error
    finally:
        record.stop()


def _print_config(cli: ClassifierCLI, sweep: dict[str, Any]) -> None:
    print(cli.dump(), end="")
    if sweep:
        from classifier.tuning.settings import shown  # imports optuna

        print(yaml.safe_dump({"optuna": shown(sweep)}, sort_keys=False), end="")
