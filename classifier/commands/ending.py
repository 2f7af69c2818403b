"""How a run ends: its result is written down and printed, whatever happens."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from classifier.commands.out_of_memory import out_of_memory
from classifier.errors import ConfigError, Interrupted, RunError, full_disk
from classifier.runs import Result, Run
from classifier.terminal import print_result, show, without_traceback

log = logging.getLogger(__name__)


def carry_out(run: Run, work: Callable[[], None], batch_size: int | None) -> Result:
    """Do the work, and write down how it ended, whatever happens.

    Args:
        run: The run folder.
        work: Fills in the run's result.
        batch_size: Of the data, named when memory ran out; None where it has none.
    """
    result = run.result
    try:
        work()
        result.status = "completed"
    except (Interrupted, KeyboardInterrupt):
        result.status, result.error = "interrupted", "ended by a signal"
        raise
    except (ConfigError, RunError) as error:
        result.status, result.error = "failed", without_traceback(error)
        log.debug("", exc_info=True)
        if isinstance(error, RunError):
            raise RunError(result.error) from error
        raise
    except Exception as error:
        result.status, result.error = "failed", f"{type(error).__name__}: {error}"
        if (full := full_disk(error)) is not None:
            raise full from error
        log.error("%s", traceback.format_exc())
        known = out_of_memory(error, batch_size, result.mode)
        if known is None:
            raise
        raise RunError(known) from error
    finally:
        run.write_result()
        if result.status == "completed":
            print_result(result)
        show(run.folder.as_posix())
    return result
