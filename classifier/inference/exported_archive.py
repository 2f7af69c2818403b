"""What may be in a file of torch.export or of TorchScript before it is opened: data and graphs.

`torch.export.load` of torch 2.15 runs whatever code a file brings, by many ways: it unpickles
weights, constants and example inputs (with weights_only=False where the safe way fails), evaluates
the text of symbolic sizes with sympy, calls any attribute of torch, math and operator that a node
names, imports modules for the types of arguments, and loads compiled libraries. No argument turns
that off. A file of this program needs none of it, so that all of it is refused: a file that passes
holds operators of torch, numbers, and names. torch never gets the bytes of the file: it gets the
copy of the archive that was checked, see `stored_archive`.

`torch.jit.load` runs no Python code: it compiles TorchScript, which knows only the operators of
torch. Two of these touch files, and some speak to other processes. They are refused here.

What is left is the risk of any parser of C++ code that reads a file made by a stranger, and of a
graph that takes for ever or fills the memory.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError
from classifier.inference.description import KEY
from classifier.inference.stored_archive import rewritten

# How the description is called among the extra files of an archive.
EXTRA = f"{KEY}.json"
# The first folder of an archive that torch writes to a stream.
_FOLDER = "archive"

_COMMON = r"byteorder|version|\.data/serialization_id|\.data/version|\.format_version"
_EXPORT_FILES = re.compile(
    rf"(?:{_COMMON}|archive_format|archive_version|models/model\.json"
    r"|data/(?:weights|constants)/(?:weight_\d+|tensor_\d+|model_\w+_config\.json)"
    rf"|data/sample_inputs/model\.pt|extra/{EXTRA})"
)
_SCRIPT_FILES = re.compile(
    rf"(?:{_COMMON}|data\.pkl|constants\.pkl|(?:data|constants)/\d+|code/[\w/]+\.py|extra/{EXTRA}"
    r"|\.storage_alignment|\.data/storage_alignment)"
)
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!(?:save|from_file)\b)\w+\.\w+"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.\w+|torch\.sym_\w+"
)
_PLAIN = re.compile(r"[\w.:+@-]*")
# A symbol of a size as sympy prints it, and what sizes are computed with.
_SYMBOL = re.compile(r"Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)")
_SIZE = re.compile(
    r"(?:Add|Mul|Pow|Max|Min|Integer|Rational|Mod|FloorDiv|CeilDiv|CleanDiv|PythonMod"
    r"|ModularIndexing|[su]\d+|\d+|[-+*/(), ]|evaluate=(?:True|False))*"
)
_SPECIFICATION = re.compile(
    r'(?:[\[\]{}, :\d]|"(?:type|context|children_spec|null|\[\]|builtins\.(?:tuple|list|dict))"'
    r"|null)*"
)
# Words of TorchScript, whatever stands between them: its grammar allows spaces. `classes` are
# those of extensions in C++.
_FORBIDDEN_IN_SCRIPT = re.compile(
    r"\b(?:save|from_file|rpc_\w+|PythonOp|IgnoredPythonOp|classes)\b"
    r"|(?<![\w.])ops\b(?!\.(?:aten|prim)\.)"
)
_FORBIDDEN_IN_PICKLE = re.compile(r"\bclasses\b")


@dataclass(frozen=True)
class Checked:
    """What a file holds, after the check.

    Args:
        archive: The only bytes that torch may open: of an archive with exactly what was checked.
        description: Text of the description.
    """

    archive: bytes
    description: str


def check_exported(content: bytes, file: Path) -> Checked:
    """Make sure that a file of torch.export holds a graph, weights and nothing else.

    Args:
        content: Of the file, whole.
        file: Its path, for messages.

    Returns:
        What torch may open instead of the file.

    Raises:
        ConfigError: damaged, of another program, or with anything that could be code.
    """
    copy = _copy(content, file)
    with zipfile.ZipFile(io.BytesIO(copy)) as archive:
        names = _names(archive, file, "torch_export")
        _check_names(names, _EXPORT_FILES, file)
        try:
            _check_model(_json(archive, _of(names, "models/model.json", file), file), file)
        except RecursionError as error:
            raise _damaged(file, "models/model.json is nested too deeply") from error
        for name, inner in names.items():
            if name.endswith("_config.json"):
                _check_payload(_json(archive, inner, file), name, file)
        if archive.getinfo(_of(names, "data/sample_inputs/model.pt", file)).file_size:
            raise _suspicious(file, "example inputs")
        return Checked(copy, _description(archive, names, file))


def check_script(content: bytes, file: Path) -> Checked:
    """Make sure that a file of TorchScript touches neither files nor other processes.

    Args:
        content: Of the file, whole.
        file: Its path, for messages.

    Returns:
        What torch may open instead of the file.

    Raises:
        ConfigError: damaged, of another program, or with operators that do more than compute.
    """
    copy = _copy(content, file)
    with zipfile.ZipFile(io.BytesIO(copy)) as archive:
        names = _names(archive, file, "torchscript")
        _check_names(names, _SCRIPT_FILES, file)
        for name, inner in names.items():
            code = name.endswith(".py")
            if code or name.endswith(".pkl"):
                text = archive.read(inner).decode("latin-1")
                forbidden = _FORBIDDEN_IN_SCRIPT if code else _FORBIDDEN_IN_PICKLE
                if found := forbidden.search(text):
                    raise _suspicious(file, found.group())
        return Checked(copy, _description(archive, names, file))


def _copy(content: bytes, file: Path) -> bytes:
    try:
        return rewritten(content)
    except ValueError as error:
        raise _damaged(file, str(error)) from error


def _names(archive: zipfile.ZipFile, file: Path, format: str) -> dict[str, str]:
    """Name without the archive's own first folder -> name within the archive."""
    inner = archive.namelist()
    names = {name.partition("/")[2]: name for name in inner}
    # torch finds names whatever their case: two that differ in it alone could hide one another.
    if len({name.lower() for name in names}) != len(inner):
        raise _suspicious(file, "files of the same name")
    if {name.partition("/")[0] for name in inner} - {_FOLDER}:
        raise _suspicious(file, "other folders")
    if f"extra/{EXTRA}" not in names:
        raise ConfigError(
            "ckpt_path", "the file is of another program", got=str(file),
            remedy=f"Give a file that --export {format} wrote",
        )  # fmt: skip
    return names


def _description(archive: zipfile.ZipFile, names: dict[str, str], file: Path) -> str:
    try:
        return archive.read(names[f"extra/{EXTRA}"]).decode()
    except UnicodeDecodeError as error:
        raise _damaged(file, f"{EXTRA} is no text in UTF-8") from error


def _of(names: dict[str, str], name: str, file: Path) -> str:
    if name not in names:
        raise _damaged(file, f"{name} is missing")
    return names[name]


def _check_names(names: dict[str, str], known: re.Pattern[str], file: Path) -> None:
    for name in names:
        if not known.fullmatch(name):
            raise _suspicious(file, name)


def _json(archive: zipfile.ZipFile, name: str, file: Path) -> Any:
    try:
        # Decoded as torch does it: left to itself, json takes UTF-16 and UTF-32, too.
        return json.loads(archive.read(name).decode())
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    except RecursionError as error:
        raise _damaged(file, f"{name} is nested too deeply") from error


def _check_model(model: Any, file: Path) -> None:
    for place, text in _texts(model):
        if not _is_harmless(place, text):
            raise _suspicious(file, text)
    if _lists_anything(model, ("metadata", "treespec_namedtuple_fields", "guards_code")):
        raise _suspicious(file, "guards or metadata")


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree with the key that it stands under; keys are texts, too."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield "", key
            yield from _texts(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, place)
    elif isinstance(node, str):
        yield place, node


def _is_harmless(place: str, text: str) -> bool:
    if place in ("target", "as_operator"):
        return _OPERATOR.fullmatch(text) is not None
    if place in ("in_spec", "out_spec"):
        return _SPECIFICATION.fullmatch(text) is not None
    if place == "expr_str":
        return _SIZE.fullmatch(_SYMBOL.sub("", text)) is not None
    return _PLAIN.fullmatch(text) is not None


def _lists_anything(node: Any, keys: tuple[str, ...]) -> bool:
    """Whether a tree has something under one of these keys, at any place."""
    if isinstance(node, dict):
        return any((key in keys and value) or _lists_anything(value, keys)
                   for key, value in node.items())  # fmt: skip
    return isinstance(node, list) and any(_lists_anything(value, keys) for value in node)


def _check_payload(content: Any, name: str, file: Path) -> None:
    """No weight of a list of them is unpickled; `name` is of the list."""
    entries = content.get("config") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise _damaged(file, f"{name} lists no weights")
    for weight, entry in entries.items():
        if not isinstance(entry, dict):
            raise _damaged(file, f"{name} does not describe {weight}")
        path = str(entry.get("path_name"))
        if entry.get("use_pickle") is not False or not re.fullmatch(r"(?:weight|tensor)_\d+", path):
            raise _suspicious(file, weight)


def _damaged(file: Path, reason: str) -> ConfigError:
    return ConfigError(
        "ckpt_path", f"the file is damaged, or is no exported model ({reason.rstrip('.')})",
        got=str(file), remedy="Export the model once more",
    )  # fmt: skip


def _suspicious(file: Path, what: str) -> ConfigError:
    return ConfigError(
        "ckpt_path", f"the file holds more than a graph and its weights ({what[:80]!r}), which "
        "could be code and is never run", got=str(file),
        remedy="Export the model with this version of the program",
    )  # fmt: skip
