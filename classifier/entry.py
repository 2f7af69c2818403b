"""main() and the program's exit codes. What needs no model is answered here, without torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.arguments import HELP, Command, parse
from classifier.config import read_config
from classifier.errors import ConfigError, Interrupted, RunError

if TYPE_CHECKING:
    from classifier.runs import Result


def main(args: Sequence[str] | None = None) -> Result | None:
    """Run one command.

    Args:
        args: The words of the command line; None takes them from sys.argv.

    Returns:
        The result, as result.json holds it. None when nothing ran: --help, --print_config, --check.

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
    layers = [read_config(path) for path in command.configs]
    experiment = Path(command.configs[0]).stem if command.configs else "experiment"
    return _execute(command, layers, experiment, started)


def _execute(
    command: Command, layers: list[dict[str, Any]], experiment: str, started: float
) -> Result | None:
    from classifier.execution import execute  # imports torch and lightning

    return execute(command, layers, experiment, started)


def console() -> int:
    """The program: main() with every outcome as an exit code.

    Returns:
        0 done, 1 the run failed, 2 wrong usage, configuration or data, 130 SIGINT, 143 SIGTERM.
    """
    try:
        main()
    except ConfigError as error:
        return _say(error, 2)
    except RunError as error:
        return _say(error, 1)
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the answer has heard enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(error: Exception, code: int) -> int:
    print(error, file=sys.stderr)
    return code
