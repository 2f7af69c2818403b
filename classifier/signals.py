"""SIGINT and SIGTERM, handled for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from classifier.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], None]


def handle_signals(handler: Handler) -> dict[int, Any]:
    """Have both signals call a handler; in a thread they stay the main thread's.

    Args:
        handler: Gets the signal's number.

    Returns:
        The handlers that they had.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}


@contextmanager
def handling_signals(handler: Handler) -> Iterator[None]:
    """The same within a block.

    Args:
        handler: Gets the signal's number.
    """
    before = handle_signals(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal: one whose parent ends it needs not hear it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_at_once(signum: int, frame: FrameType | None) -> None:
    """A handler for what has nothing to save.

    Raises:
        Interrupted: names the signal.
    """
    raise Interrupted(signum)
