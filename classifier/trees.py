"""Configurations as trees of plain data: laid over each other, changed and read by dotted path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from classifier.errors import ConfigError

_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another: mappings are joined, all else is replaced.

    A mapping with another class_path replaces the old one whole: the arguments of one class mean
    nothing to another.

    Args:
        base: The earlier configuration.
        over: The later one, which wins.
    """
    if "class_path" in over and over["class_path"] != base.get("class_path", over["class_path"]):
        return copy.deepcopy(dict(over))
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def override(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set one value in a configuration, in place.

    Args:
        tree: The configuration.
        key: Dotted path; list items by their index; `init_args` may be left out.
        value: The new value.

    Raises:
        ConfigError: the path leads through something that has no keys, or past a list's end.
    """
    *path, last = key.split(".")
    node: Any = tree
    for depth, name in enumerate(path):
        node = _step(_arguments(node, name), name, ".".join(path[: depth + 1]), following=True)
    node = _arguments(node, last)
    if isinstance(node, list):
        _step(node, last, key, following=False)
        node[int(last)] = value
    elif isinstance(node, dict) and isinstance(node.get(last), dict) and isinstance(value, dict):
        node[last] = merge(node[last], value)
    elif isinstance(node, dict):
        if last == "class_path" and node.get("class_path") != value:
            node.pop("init_args", None)
        node[last] = value
    else:
        raise ConfigError(key, "cannot be set: what holds it is no mapping", got=node)


def replace_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """As `override`, but a mapping replaces an old one whole instead of joining it.

    Args:
        tree: The configuration.
        key: Dotted path.
        value: The new value, which is copied.
    """
    if isinstance(value, Mapping):
        override(tree, key, None)
    override(tree, key, copy.deepcopy(value))


def lookup(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted path, or None where there is none.

    Args:
        tree: The configuration.
        key: Dotted path; list items by their index; `init_args` may be left out.
    """
    node: Any = tree
    for name in key.split("."):
        if isinstance(node, Mapping):
            if "class_path" in node and name not in _CLASS_KEYS:
                node = node.get("init_args") or {}
            node = node.get(name)
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _arguments(node: Any, name: str) -> Any:
    """The init_args of a class, when `name` is an argument and not a key of the class itself."""
    if isinstance(node, dict) and "class_path" in node and name not in _CLASS_KEYS:
        if not isinstance(node.get("init_args"), dict):
            node["init_args"] = {}
        return node["init_args"]
    return node


def _step(node: Any, name: str, key: str, *, following: bool) -> Any:
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise ConfigError(
                key, f"the list has {len(node)} items", got=name,
                remedy=f"Write an index from 0 to {len(node) - 1}",
            )  # fmt: skip
        return node[int(name)]
    if isinstance(node, dict) and following:
        if node.get(name) is None:
            node[name] = {}
        return node[name]
    raise ConfigError(key, "has no keys below it", got=node, remedy="Correct the dotted key")
