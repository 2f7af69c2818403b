"""main() and the program's exit codes. What needs no model is answered here, without torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.arguments import Command, parse
from classifier.config import assembled, read_config, tunes
from classifier.errors import ConfigError, Interrupted, RunError, full_disk
from classifier.files import write_text
from classifier.manual import HELP
from classifier.ranks import started_by_first
from classifier.runs import ERROR, trial_folder
from classifier.tuning.launching import end_with_driver

if TYPE_CHECKING:
    from classifier.repeating.summary import RepeatResult
    from classifier.runs import Result
    from classifier.tuning.summary import SweepResult


WARM = "classifier.warm"  # what the server imports that trials are forked from


def main(args: Sequence[str] | None = None) -> Result | None:
    """Run one command.

    Args:
        args: The words of the command line; None takes them from sys.argv.

    Returns:
        The result, as result.json holds it; a SweepResult where `optuna.tune` is true, a
        RepeatResult with --folds and --repeat. None
        when nothing ran: --help, --print_config.

    Raises:
        ConfigError: wrong usage, configuration or data, found before training.
        RunError: the run failed for a reason that can be said in a sentence.
        Interrupted: SIGINT or SIGTERM ended the run.
    """
    started = time.time()
    command = parse(sys.argv[1:] if args is None else args)
    if command.help == "short":
        print(HELP, end="")
        return None
    if command.mode == "compare" and not command.help:
        from classifier.commands.compare import compare_runs  # imports numpy

        return compare_runs(command.paths, command.output, started)
    if command.mode == "predict" and not command.help:
        from classifier.commands.light_prediction import predict_lightly  # imports numpy

        result = predict_lightly(command, started)
        if result is not None:
            return result
    layers = [read_config(path) for path in command.configs]
    experiment = Path(command.configs[0]).stem if command.configs else "experiment"
    if command.mode == "train" and not command.print_config and not command.help:
        words = [(key, text) for key, text in command.overrides if key.startswith("optuna")]
        if command.folds is not None or command.repeat is not None:
            return _repeat(layers, command, experiment, started)
        if tunes(assembled(layers, words)):
            return _sweep(assembled(layers, command.overrides), command, experiment, started)
    return _execute(command, layers, experiment, started)


def _sweep(tree: dict[str, Any], command: Command, experiment: str, started: float) -> SweepResult:
    from classifier.tuning.sweep import sweep  # imports optuna

    if command.ckpt_path is not None:
        tree["ckpt_path"] = command.ckpt_path
    return sweep(tree, str(tree.get("custom_folder_name") or experiment), started, console, WARM)


def _repeat(
    layers: list[dict[str, Any]], command: Command, experiment: str, started: float
) -> RepeatResult:
    from classifier.repeating.driver import repeat

    tree = assembled(layers, command.overrides)
    if tunes(tree):
        raise ConfigError(
            "optuna.tune", "is true: a command is a sweep, or several trainings, not both",
            got=True, remedy="Add --optuna.tune false; afterwards repeat the best trial by its "
            "best_config.yaml",
        )  # fmt: skip
    return repeat(tree, command, experiment, started, console, WARM)


def _execute(
    command: Command, layers: list[dict[str, Any]], experiment: str, started: float
) -> Result | None:
    from classifier.execution import execute  # imports torch and lightning

    return execute(command, layers, experiment, started)


def console(args: Sequence[str] | None = None) -> int:
    """The program: main() with every outcome as an exit code.

    Args:
        args: The words of the command line; None takes them from sys.argv.

    Returns:
        0 done, 1 the run failed, 2 wrong usage, configuration or data, 130 SIGINT, 143 SIGTERM.
    """
    if args is None and trial_folder() is not None:
        end_with_driver()
    try:
        main(args)
    except ConfigError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if (full := full_disk(error)) is not None:
            return _say(full, 1)
        if not isinstance(error, BrokenPipeError):
            raise
        # Whoever read the answer has heard enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(error: Exception, code: int) -> int:
    if started_by_first():
        return code  # which tells it
    print(error, file=sys.stderr)
    folder = trial_folder()
    if folder is not None:
        write_text(folder / ERROR, str(error))
    return code
