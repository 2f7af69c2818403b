"""Markdown from names and texts of users: nothing in them becomes a link, a tag or a column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_SIGNS = re.compile(r"([!#$&()*:<>@\[\\\]^_`{|}~])")
# Control characters, and signs that turn the direction of what follows them.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")


def one_line(text: Any) -> str:
    """A text in one line, of signs that one can see and that UTF-8 can hold.

    Args:
        text: Any; bytes of a file name that were no UTF-8 become question marks.
    """
    seen = _UNSEEN.sub(" ", str(text)).strip()
    return seen.encode("utf-8", "replace").decode("utf-8")


def escaped(text: Any) -> str:
    """A text in one line that a reader sees as it is.

    Args:
        text: A class name, a path, any value of a configuration.
    """
    return _SIGNS.sub(r"\\\1", one_line(text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first to the right, where they hold numbers.

    Args:
        header: Names of the columns.
        rows: Cells, escaped where they are of users.
    """
    lines = [header, ["---", *(["---:"] * (len(header) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and texts."""
    lines = [("", ""), ("---", "---"), *rows]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)


def block(text: str, language: str = "") -> str:
    """A block of code, which ends where the text ends and not before.

    Args:
        text: Anything; as it is.
        language: For the colours.
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def folded(summary: str, content: str) -> str:
    """Something long, shown when a reader asks for it."""
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"
