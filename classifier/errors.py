"""What a user can do wrong, worded one way: dotted key, problem, value, remedy, nearest name."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from typing import Any

_NOTHING = object()
_LONGEST_VALUE = 120
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, ignoring case, or None when nothing is near.

    Args:
        name: What was written.
        options: What could have been meant.
    """
    by_lower: dict[str, str] = {}
    for option in options:
        by_lower.setdefault(option.lower(), option)
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


class ConfigError(ValueError):
    """Wrong usage, configuration or data, found before training. Ends the program with code 2.

    Reads `<dotted.key>: <problem>, got <value>. <remedy>. Did you mean 'x'?`

    Args:
        key: Dotted path of the configuration key, or the file or flag at fault.
        problem: What is wrong, without a full stop.
        got: The value that was found; left out when not given.
        remedy: What to write instead, without a full stop.
        name: The misspelt name, looked up among `options`.
        options: Names that would have been valid.
    """

    def __init__(
        self,
        key: str,
        problem: str,
        *,
        got: Any = _NOTHING,
        remedy: str = "",
        name: str | None = None,
        options: Iterable[str] = (),
    ) -> None:
        self.key = key
        text = problem
        if got is not _NOTHING:
            text += f", got {_shorten(got)}"
        text += "."
        if remedy:
            text += f" {remedy}."
        suggestion = closest(name, options) if name is not None else None
        if suggestion is not None:
            text += f" Did you mean {suggestion!r}?"
        self.text = text
        super().__init__(f"{key}: {text}")

    def at(self, key: str) -> ConfigError:
        """The same error under another key: what was found in a part, told of the whole."""
        moved = ConfigError.__new__(ConfigError)
        ValueError.__init__(moved, f"{key}: {self.text}")
        moved.key, moved.text = key, self.text
        return moved

    @classmethod
    def together(cls, errors: Sequence[ConfigError]) -> ConfigError:
        """Several mistakes in one message, a line each.

        Args:
            errors: At least one; itself where it is the only one.
        """
        if len(errors) == 1:
            return errors[0]
        return cls.worded("\n".join(str(error) for error in errors))

    @classmethod
    def worded(cls, message: str) -> ConfigError:
        """An error whose whole message is there already."""
        error = cls.__new__(cls)
        ValueError.__init__(error, message)
        error.key, _, error.text = message.partition(": ")
        return error


class RunError(RuntimeError):
    """The run failed for a reason that can be said in a sentence. Ends the program with code 1."""


class Interrupted(BaseException):
    """A signal ended the run after its checkpoint was written. Ends with code 128 + signal.

    A BaseException, as KeyboardInterrupt is: no `except Exception` on the way may swallow it.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"interrupted by signal {signum}")


def reason_of(error: BaseException, most: int = 1000) -> str:
    """What an error of a library says, in one line for a message.

    Args:
        error: Any; one without words is told by its class.
        most: Characters.
    """
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def full_disk(error: BaseException) -> RunError | None:
    """What to say of a disk that takes nothing more; None of any other error.

    Args:
        error: Of any kind.
    """
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return RunError(f"{where}{error.strerror}. Free disk space; what was written before is whole")
