"""What is kept of a text that may hold a secret: everything but the secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_SECRET = r"(?:token|secret|password|passwd|api_?key|credentials?)"
_SECRET_OPTION = re.compile(rf"(?i)--(?:.*[._-])?{_SECRET}\Z")
# `token: x`, `"api_key": "x"`, `?access_token=x`
_SECRET_VALUE = re.compile(rf"(?i)({_SECRET}[\"']?\s*[:=]\s*)(?!\$\{{\w+\}})[^\s,}}\]&]+")
# Tokens of Hugging Face, GitHub and GitLab are known by how they begin.
_KNOWN_TOKEN = re.compile(r"\b(?:hf_|gh[a-z]_|github_pat_|glpat-)[\w-]{16,}")
_WEB_USER = re.compile(r"(?i)(https?://)[^/@\s]+@")


def masked(url: str) -> str:
    """A storage URL without its password: for everything that is shown or written."""
    hidden = re.sub(r"(://[^:/@]*:)(?!\$\{\w+\}@).*@", r"\1***@", url)
    return re.sub(r"(?i)(password=)(?!\$\{\w+\})[^&]*", r"\1***", hidden)


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line without passwords and tokens, and with `~` for the user's home.

    Args:
        words: As in sys.argv.
    """
    home = str(Path.home())
    return [word.replace(home, "~") if len(home) > 1 else word for word in _without_secrets(words)]


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    is_secret = False  # whether the option before says so
    for word in words:
        option, equals, _ = word.partition("=")
        if is_secret and not word.startswith("--"):
            yield "***"
            is_secret = False
        elif _SECRET_OPTION.match(option):
            yield f"{option}=***" if equals else option
            is_secret = not equals
        else:
            yield _text_without_secrets(word)
            is_secret = False


def _text_without_secrets(text: str) -> str:
    text = _WEB_USER.sub(r"\1***@", text)
    if "://" in text:
        text = masked(text)
    return _KNOWN_TOKEN.sub("***", _SECRET_VALUE.sub(r"\1***", text))
