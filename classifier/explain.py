"""What the argument parser found wrong, in one line that names the dotted key.

jsonargparse tells every branch of every union that did not fit, over dozens of lines. Most mistakes
are found faster by walking the configuration: a class that cannot be imported, an argument that it
does not take, one that is missing. What is left is a wrong type, read from the parser's own words.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import takewhile
from typing import Any

from lightning import Trainer

from classifier.config import TOP_LEVEL_KEYS
from classifier.errors import ConfigError
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.importing import check_arguments, import_path, parameters_of, public_names
from classifier.nulls import refused_nulls

_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
# Where classes that may be named without their module come from.
_SHORT_NAME_MODULES = (
    "classifier",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.profilers",
    "albumentations",
)
# MetricsLogger reads its list itself: a metric needs the number of classes.
_OWN_SPECS = ".init_args.metrics"
_DATASETS = "data.init_args.dataset_classes."
_ONE_DATASET = "{class_path: FolderImageDataset, init_args: {root: FOLDER}}"
# Where the types that fit are not what one would write.
_REMEDIES = {
    "trainer.precision": "Write auto, 32-true, bf16-mixed or 16-mixed",
    _DATASETS.rstrip("."): f"Write {{train: {_ONE_DATASET}}}",
}
_TYPE_WORDS = {
    "NoneType": "null",
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "tuple": "a list",
    "str": "text",
}
_KEY = re.compile(r'^(?P<indent> *)Parser key "(?P<key>[^"]+)":', re.MULTILINE)
_EXPECTED = re.compile(r"Expected an? (?:<class '(?:builtins\.)?(\w+)'>|typing\.Literal\[(.*)\])")
_TEXT = re.compile(r"'([^']+)'")
_VALUE = re.compile(r"(?:Given value|Got value): (.*)")


def check_names(config: Mapping[str, Any]) -> None:
    """Refuse classes that do not exist and arguments that they do not take.

    Args:
        config: The whole configuration as plain data.

    Raises:
        ConfigError: the first mistake in the order of the file.
    """
    _walk(config, "")


def explain_parsing(message: str, config: Mapping[str, Any]) -> ConfigError:
    """The parser's complaint as one of ours.

    Args:
        message: What jsonargparse said.
        config: The configuration that it parsed, with all names checked: what is left is a type.
    """
    found = list(_KEY.finditer(message))
    if not found:
        return ConfigError("--config", " ".join(message.split()).rstrip("."))
    chain: list[str] = []
    depth = -1
    innermost = found[0]
    for match in found:
        if len(match["indent"]) > depth:
            depth, innermost = len(match["indent"]), match
            chain.append(match["key"])
    rest = _below(message, innermost)
    values = _VALUE.findall(rest)
    key, value = _locate(chain, values[0].strip() if values else "", config)
    words = list(dict.fromkeys(_type_words(rest)))
    wrong = f"must be {' or '.join(words)}" if words else _reason(rest)
    return ConfigError(
        key, wrong, got=value, remedy=_REMEDIES.get(key, ""),
        name=value if isinstance(value, str) else None, options=_TEXT.findall(wrong),
    )  # fmt: skip


def explain_building(error: Exception, config: Mapping[str, Any]) -> Exception:
    """Which of a configuration's objects could not be made, and why.

    jsonargparse wraps what a constructor raises into text. Here every object is made once more, the
    inner ones first, until one raises.

    Args:
        error: What jsonargparse raised.
        config: The configuration as plain data.

    Returns:
        A ConfigError with the dotted key; the error itself where every object can be made.
    """
    try:
        _build(config, "")
    except ConfigError as found:
        return found
    return error


def _build(node: Any, key: str) -> Any:
    if key.endswith(_OWN_SPECS):
        return node
    if isinstance(node, Mapping):
        if "class_path" not in node:
            return {name: _build(item, f"{key}.{name}".strip(".")) for name, item in node.items()}
        cls = _class(node["class_path"], f"{key}.class_path")
        arguments = _build(node.get("init_args") or {}, f"{key}.init_args")
        if cls is None:
            return None
        try:
            return cls(**arguments)
        except ConfigError as error:
            known = error.key.partition(".")[0] in TOP_LEVEL_KEYS
            raise error if known else error.at(f"{key}.init_args.{error.key}") from error
        except Exception as error:  # a constructor may raise anything
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if len(lines) > 2 and "validation error" in lines[0]:
                lines = [f"{lines[1]}: {lines[2].partition(' [')[0]}"]
            reason = (lines[0] if lines else type(error).__name__).rstrip(".")
            raise ConfigError(
                f"{key}.init_args", f"{cls.__name__} refuses them: {reason}", got=dict(arguments)
            ) from error
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_build(item, f"{key}.{index}") for index, item in enumerate(node)]
    return node


def _walk(node: Any, key: str) -> None:
    """Find the first class or argument that cannot be, in the order of the file."""
    if key.endswith(_OWN_SPECS):
        return
    if isinstance(node, Mapping):
        _check_mapping(node, key)
        for name, value in node.items():
            _walk(value, f"{key}.{name}" if key else str(name))
        if not key:
            _check_sections(node)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            _walk(value, f"{key}.{index}")
    elif isinstance(node, str) and _is_stage(key):
        raise _no_dataset(key, node)


def _check_mapping(node: Mapping[str, Any], key: str) -> None:
    if "class_path" in node:
        _check_class(node, key)
    elif _is_stage(key):
        raise _no_dataset(key, node)
    elif key in ("model", "data"):
        own = {"model": "ImageClassifier", "data": "ImageDataModule"}[key]
        raise ConfigError(
            f"{key}.class_path", "is missing", remedy=f"Write class_path: classifier.{own}"
        )
    elif key == "trainer":
        check_arguments(Trainer, node, key)
    elif key == SECTION:
        check_arguments(EvaluationSettings, node, key)
        _check_nulls(EvaluationSettings, node, key)


def _is_stage(key: str) -> bool:
    return key.startswith(_DATASETS) and key.count(".") == _DATASETS.count(".")


def _no_dataset(key: str, node: Any) -> ConfigError:
    return ConfigError(
        key, "needs a class_path beside init_args", got=node,
        remedy=f"Write {_ONE_DATASET}",
    )  # fmt: skip


def _check_sections(config: Mapping[str, Any]) -> None:
    for section in ("model", "data"):
        if not config.get(section):
            raise ConfigError(
                section, "is missing", remedy="See configs/folder.yaml for a complete file",
            )  # fmt: skip


def _check_class(node: Mapping[str, Any], key: str) -> None:
    for name in node:
        if name not in _CLASS_KEYS:
            raise ConfigError(
                f"{key}.{name}", "unknown key beside class_path",
                remedy="Write the arguments of the class below init_args",
                name=str(name), options=_CLASS_KEYS,
            )  # fmt: skip
    cls = _class(node["class_path"], f"{key}.class_path")
    arguments = node.get("init_args")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{key}.init_args", "must be a mapping of arguments", got=arguments)
    if cls is not None:
        check_arguments(cls, arguments, f"{key}.init_args")
        for name, required in (parameters_of(cls) or {}).items():
            if required and name not in arguments:
                raise ConfigError(
                    f"{key}.init_args.{name}", f"is missing; {cls.__name__} needs it",
                    remedy=f"Add {name}",
                )  # fmt: skip
        _check_nulls(cls, arguments, f"{key}.init_args")


def _check_nulls(cls: type, arguments: Mapping[str, Any], key: str) -> None:
    for name, types, default in refused_nulls(cls, arguments):
        words = dict.fromkeys(_TYPE_WORDS.get(kind, kind) for kind in types)
        example = f"Write for example {default}, or leave it out" if default is not None else ""
        raise ConfigError(
            f"{key}.{name}", f"must be {' or '.join(words)}", got=None,
            remedy=_REMEDIES.get(f"{key}.{name}", example),
        )  # fmt: skip


def _class(path: Any, key: str) -> Any:
    if not isinstance(path, str):
        raise ConfigError(key, "must be the import path of a class", got=path)
    if "." in path:
        found = import_path(path, key)
        return found if inspect.isclass(found) else None
    classes = _short_names()
    if path not in classes:
        raise ConfigError(
            key, "no such class", got=path, name=path, options=classes,
            remedy="Write its whole import path",
        )  # fmt: skip
    return classes[path]


@cache
def _short_names() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module_name in _SHORT_NAME_MODULES:
        module = import_module(module_name)
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.isclass(value):
                found.setdefault(name, value)
    return found


def _below(message: str, match: re.Match[str]) -> str:
    """What the parser says of one key: the lines that are indented deeper than the key's."""
    first, *lines = message[match.end() :].split("\n")
    depth = len(match["indent"])
    own = takewhile(lambda line: len(line) - len(line.lstrip()) > depth or not line.strip(), lines)
    return "\n".join([first, *own])


def _type_words(text: str) -> Iterator[str]:
    for name, choices in _EXPECTED.findall(text):
        several = f"one of {choices}" if "," in choices else choices.strip("'")
        yield _TYPE_WORDS.get(name, name) if name else several


def _reason(text: str) -> str:
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    skipped = ("Given value", "Does not validate", "Subtypes", "Errors:", "Problem with")
    reasons = [line for line in lines if not line.startswith(skipped)]
    return (reasons[0] if reasons else "is not valid").rstrip(".")


def _locate(chain: list[str], value_text: str, config: Mapping[str, Any]) -> tuple[str, Any]:
    """The full dotted key of a value, from the names that lead to it."""
    parts = [part for key in chain for part in key.split(".")]
    candidates = [
        (key, value)
        for key, value in _leaves(config, "")
        if key.split(".")[-1] == parts[-1] and _in_order(parts, key.split("."))
    ]
    for key, value in candidates:
        if str(value) == value_text:
            return key, value
    return candidates[0] if candidates else (".init_args.".join(chain), value_text)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if key:
        yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{key}.{index}")


def _in_order(parts: Sequence[str], path: Sequence[str]) -> bool:
    remaining = iter(path)
    return all(part in remaining for part in parts)
