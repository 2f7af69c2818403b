"""What ends a sweep before its time: a signal, or too many failures."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType

from classifier.signals import handling_signals


@dataclass
class Ending:
    """Why and how a sweep ends early; as it was made where nothing ends it.

    Args:
        signum: The signal that ends it.
        at_once: Whether Ctrl-C came on top: no trial gets the time to write its checkpoint.
        failure: Why it gave up.
        reasons: Of the trials that failed, in order.
    """

    signum: int | None = None
    at_once: bool = False
    failure: str | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        """Whether nothing further shall begin."""
        return self.signum is not None or self.failure is not None

    def why_nothing(self) -> str:
        """Why no trial has a value."""
        said = self.failure or "no trial completed"
        return f"{said}: {self.reasons[0]}" if self.reasons else said

    def obeying(self) -> AbstractContextManager[None]:
        """Within the block SIGINT and SIGTERM are noted; in a thread they are the main one's."""
        return handling_signals(self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            self.at_once = True
        else:
            self.signum = signum
