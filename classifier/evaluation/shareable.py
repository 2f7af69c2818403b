"""What of a run's texts is nobody else's business: homes, and what opens doors."""

from __future__ import annotations

import re
from pathlib import Path

_HOMES = r"/(?:home|Users)/[^/\s\"']+|/root|[A-Za-z]:\\{1,2}Users\\{1,2}[^\\\s\"']+"
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@\"']+@")
# `api_key: abc` of YAML and `"api_key": "abc"` of JSON, but no number, no truth value, no nothing.
_SECRET = re.compile(
    r"^(?P<key>[\s{,-]*[\"']?[\w.-]*(?:token|passwo?rd|passphrase|secret|api_?key|credentials?)"
    r"[\"']?\s*:\s*)(?!(?:null|true|false|~|[-+.\d]+)?,?\s*$)\S.*?(?P<end>,?)$",
    flags=re.IGNORECASE | re.MULTILINE,
)


def shareable(text: str) -> str:
    """A text without home directories, passwords and tokens.

    A home directory becomes `~`, so that a path still says what lies where; the user of an address
    (`postgresql://user:password@host`) is left out; the value of a key such as api_key or password
    becomes `removed`.

    Args:
        text: Lines of YAML or JSON, or a path.
    """
    own = Path.home()  # of a container it may be the root of everything
    named = _HOMES if own == Path(own.anchor) else rf"{re.escape(str(own))}|{_HOMES}"
    text = re.sub(rf"(?<![\w.~-])(?:{named})(?![\w.-])", "~", text)
    text = _USER_IN_ADDRESS.sub("", text)
    return _SECRET.sub(r'\g<key>"removed"\g<end>', text)
