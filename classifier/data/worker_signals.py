"""How workers end: not before the training that they work for, and not without saying so.

`timeout`, systemd and clusters send SIGTERM to every process at once. The training then finishes
its batch and writes a checkpoint, and needs its workers until that is done.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from classifier.signals import ignore_interrupts

_TERM = {signal.SIGTERM}
_ENDING = {signal.SIGINT, signal.SIGTERM}
_TELLS_SENDER = hasattr(signal, "sigwaitinfo")  # not on macOS


class SteadyLoader(DataLoader[Any]):
    """A loader whose workers obey `heed_only_parent` from their first moment.

    Raises:
        RuntimeError: a worker is gone; "DataLoader worker" is in the message, whatever it was that
            it did when it was killed.
    """

    def __iter__(self) -> Any:
        with _holding_signals():
            batches = super().__iter__()
        return _naming_lost_worker(batches)


def _naming_lost_worker(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        # The connection to a dying worker breaks before the system tells of its end: torch then
        # takes it for alive. What a worker itself met names that worker.
        if "in DataLoader worker process" in str(error):
            raise
        raise RuntimeError("DataLoader worker exited unexpectedly") from error


@contextmanager
def _holding_signals() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM wait, also for the processes that are started there.

    Those would die of one that comes before they have said what to do about it.
    """
    if not _TELLS_SENDER:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_only_parent() -> None:
    """Have this worker end on a SIGTERM of the process that started it, and of no other.

    It cannot be ignored altogether: a process that ends sends it to workers that are left, and
    waits for them without a limit. A worker whose parent was killed ends by torch's own watch.
    Where the system does not tell who sent a signal, every SIGTERM ends the worker.

    Source: torch/csrc/DataLoader.cpp, `handler_SIGTERM`, tells the parent's the same way.
    """
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not _TELLS_SENDER:
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _TERM)

    def wait() -> None:
        while signal.sigwaitinfo(_TERM).si_pid != parent and os.getppid() == parent:
            continue
        os._exit(0)  # as torch's handler does: the parent would take another end for a failure

    threading.Thread(target=wait, name="heed-parent", daemon=True).start()
