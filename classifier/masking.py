"""What is kept of a text that may hold a secret: everything but the secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from classifier.config import parse_yaml

# How the name of a secret ends. `(?<![a-z])`: of short words only whole ones, no bypass, no oauth.
_SECRET = (
    r"(?:tokens?|secrets?|passwo?r[dt]s?|passwds?|passphrases?|passcodes?|pwd|credentials?"
    r"|authori[sz]ation|access[_-]?key[_-]?id"
    r"|(?:api|access|private|secret|account|storage|auth|encryption|signing|ssh|master|licen[cs]e"
    r"|subscription)[_-]?keys?|(?<![a-z])(?:pass|auth|bearer|cookies?))"
)
_SECRET_NAME = re.compile(rf"(?i).*{_SECRET}\Z", flags=re.DOTALL)
# A number below prompt_tokens counts something, and one below class_token is a part of a model.
_COUNTING_NAME = re.compile(r"(?i).+tokens?\Z", flags=re.DOTALL)
_NUMBER_OF = re.compile(r"(?i)(?:n|num|number|max|min|total)_")
_HUMP = re.compile(r"(?<=[a-z\d])(?=[A-Z])")  # between the words of apiKey
_REFERENCE = re.compile(r"(?i)(?:(?:bearer|basic|token)\s+)?(?:\$\{\w+\})+")

# Tokens of Hugging Face, GitHub, GitLab, Slack, AWS and others are known by how they begin.
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|sk-(?:proj|ant|or)-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]+\.[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?!\$\{\w+\})[\w.~+/=-]{8,}")
_SIGNATURE = re.compile(r"(?i)([?&](?:sig|[\w-]*signature)=)[^&\s]+")
_KEY = re.compile(rf"(?i){_SECRET}[\w.\"'-]*\s*:")  # of a text that may be YAML or JSON
# `token: x` to the end of the line, `token=x` to the next pair, `"token": "a b"` to its quote.
_PAIR = re.compile(
    rf"(?i)(?<![\w.-])(?P<key>[\w.-]*{_SECRET})(?P<mark>[\"']?\s*(?P<sign>[:=])\s*)"
    r"(?P<value>\$\{\w+\}(?=[\s,;&}\]\"']|\Z)|\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|(?<==)[^&;,\s]+|(?<!=)[^\n]+)"
)
# The user of an address ends at the last @ before the path. A password may hold a slash, which one
# knows by the colon before it that begins no port; only on the web, a path may hold an @.
_SLASHED = r"[^/\s:]*:(?!\d+(?:/|\Z))\S*"
_USER = re.compile(
    rf"(?i)(?:(?<=http://)|(?<=https://))(?:[^/\s]*|{_SLASHED})@"
    rf"|(?<=://)(?<!http://)(?<!https://)(?:{_SLASHED}|[^/\s]*)@"
)
_HOMES = (
    r"(?:[A-Za-z]:)?/(?:home|Users)/[^/\s\"']+|/root"
    r"|[A-Za-z]:\\{1,2}Users\\{1,2}(?:[^\\\s\"']+(?: [^\\\s\"']+)+(?=\\)|[^\\\s\"']+)"
)


def masked(url: str) -> str:
    """A storage URL without its password: for everything that is shown or written."""
    hidden = re.sub(r"(://[^:/@]*:)(?!\$\{\w+\}@).*@", r"\1***@", url)
    return re.sub(r"(?i)(password=)(?!\$\{\w+\})[^&]*", r"\1***", hidden)


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line without passwords and tokens, and with `~` for homes of users.

    Args:
        words: As in sys.argv.
    """
    return list(_without_secrets(words))


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    before: str | None = None  # the option whose value comes next
    for word in words:
        option, equals, value = word.partition("=")
        if before is not None and _is_secret(before, _parsed(word)):
            # Even where it begins with dashes: a password may, and no option may come here.
            yield "***"
            before = None
        elif equals and _is_name(option):
            hidden = _is_secret(option, _parsed(value))
            yield f"{option}={'***' if hidden else _masked_word(value)}"
            before = None
        else:
            yield _masked_word(word)
            before = word if word.startswith("--") and _secret_parts(word) else None


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+", text) is not None


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):  # the second of a tag such as !!int
        return text


def _masked_word(word: str) -> str:
    return _homeless(_masked_text(word, "***", _masked_user))


def shareable(tree: Any) -> Any:
    """Plain data without home directories, passwords and tokens, as data of the same form.

    What stands below a key such as api_key, password or credentials becomes `removed`, whole. In
    all other text a home directory becomes `~`, so that a path still says what lies where, the
    user of an address (`postgresql://user:password@host`) is left out, and what is known for a
    token becomes `removed`. References such as `${PASSWORD}` stay: they are no secrets. So do
    numbers such as num_tokens, truth values and null.

    Args:
        tree: Mappings, lists and scalars, as YAML and JSON give them, or a single text.
    """
    return _without(tree, lambda text: _homeless(_masked_text(text, "removed", _no_user)))


def without_secrets(tree: Any) -> Any:
    """As `shareable`, but paths are as they were: for what is to be compared.

    Args:
        tree: Mappings, lists and scalars.
    """
    return _without(tree, lambda text: _masked_text(text, "removed", _no_user))


def shareable_yaml(tree: Any) -> str:
    """What is `shareable` of a configuration, as YAML.

    Args:
        tree: The configuration as plain data.
    """
    return yaml.safe_dump(shareable(tree), sort_keys=False, allow_unicode=True)


def _without(tree: Any, hide: Callable[[str], str], mark: str = "removed") -> Any:
    """A copy of a tree in which secret values are `mark`, and `hide` was done to all text."""
    if isinstance(tree, Mapping):
        return {
            _without(key, hide, mark): mark
            if isinstance(key, str) and _is_secret(key, value)
            else _without(value, hide, mark)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        items = [_without(item, hide, mark) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    return hide(tree) if isinstance(tree, str) else tree


def _secret_parts(key: str) -> list[str]:
    """Of the parts of a name between dots those that are names of secrets."""
    parts = [_HUMP.sub("_", part.strip().lstrip("-")).lower() for part in key.split(".")]
    parts = [part.replace(" ", "_") for part in parts]
    return [part for part in parts if _SECRET_NAME.match(part) and not _NUMBER_OF.match(part)]


def _is_secret(key: str, value: Any) -> bool:
    parts = _secret_parts(key)
    counting = all(_COUNTING_NAME.match(part) for part in parts)
    return bool(parts) and not _tells_nothing(value, counting=counting)


def _tells_nothing(value: Any, *, counting: bool) -> bool:
    """Whether a value below the name of a secret is none: nothing, a reference, or a count."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return True
    if isinstance(value, str):
        return _REFERENCE.fullmatch(value) is not None
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return all(_tells_nothing(item, counting=counting) for item in items)
    return counting


def _masked_text(text: str, mark: str, user: Callable[[re.Match[str]], str]) -> str:
    """A text without what is known for a secret by its form, or by the name before it."""
    if _KEY.search(text):
        tree = _parsed(text)  # a value in it may have several words, or several lines
        if isinstance(tree, dict | list):
            kept = _without(tree, lambda inner: _masked_text(inner, mark, user), mark)
            return text if kept == tree else _as_text(kept, text)

    def pair(match: re.Match[str]) -> str:
        value = match["value"].strip().rstrip(",")
        if value.strip("\"'") == mark or not _is_secret(match["key"], _parsed(value)):
            return match[0]
        return f"{match['key']}{match['mark']}{mark}"

    text = _KNOWN_TOKEN.sub(mark, _USER.sub(user, text))
    text = _SIGNATURE.sub(rf"\g<1>{mark}", _BEARER.sub(rf"\g<1>{mark}", text))
    return _PAIR.sub(pair, text)


def _as_text(tree: Any, before: str) -> str:
    """YAML in braces where there were braces before."""
    flow = before.lstrip()[:1] in ("{", "[")
    text = yaml.safe_dump(
        tree, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=2**31
    )
    return text if before.endswith("\n") else text.rstrip("\n")


def _no_user(match: re.Match[str]) -> str:
    return match[0] if _refers(match[0]) else ""


def _masked_user(match: re.Match[str]) -> str:
    """The name of a user stays, but not before a host of the web: there it may be a token."""
    if _refers(match[0]):
        return match[0]
    name, colon, _ = match[0].partition(":")
    of_web = re.search(r"(?i)https?://\Z", match.string[: match.start()])
    return f"{name}:***@" if colon and not of_web else "***@"


def _refers(user: str) -> bool:
    """Whether what should be secret of `user:password@` is a reference to the environment."""
    name, _, password = user.removesuffix("@").partition(":")
    return _REFERENCE.fullmatch(password or name) is not None


def _homeless(text: str) -> str:
    own = Path.home()  # of a container it may be the root of everything
    named = _HOMES if own == Path(own.anchor) else rf"{re.escape(str(own))}|{_HOMES}"
    return re.sub(rf"(?<![\w.~-])(?:{named})(?![\w.-])", "~", text)
