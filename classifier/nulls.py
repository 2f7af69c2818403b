"""Arguments that are given as null and cannot be.

For jsonargparse null is the same as not given: it checks no type there, and hands None on.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def refused_nulls(
    cls: type, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], str | None]]:
    """The arguments that are null although their type does not allow it.

    Only of this program's own classes: other packages write `x: int = None` and mean that it does.

    Args:
        cls: What will be called; a subclass of the user's own hands arguments on to ours.
        arguments: What it will be called with.

    Yields:
        Name; the types that fit, as Python or a Literal calls them; the default as YAML has it,
        None where there is none to show.
    """
    for name, value in arguments.items():
        parameter = _own_parameter(cls, name) if value is None else None
        types = (NoneType,) if parameter is None else _types(parameter.annotation)
        if parameter is None or NoneType in types:
            continue
        default = parameter.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        shows = isinstance(default, str | int | float)
        yield name, [word for kind in types for word in _names(kind)], shown if shows else None


def _own_parameter(cls: type, name: str) -> inspect.Parameter | None:
    """The parameter, where a class of this program is the nearest one that declares it."""
    for base in cls.__mro__:
        if (
            "__init__" in vars(base)
            and name in inspect.signature(vars(base)["__init__"]).parameters
        ):
            own = base.__module__.partition(".")[0] == __package__
            return _parameters(base)[name] if own else None
    return None


@cache
def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class with resolved annotations; Any where there is none."""
    function = vars(cls)["__init__"]
    hints, found = get_type_hints(function), inspect.signature(function).parameters
    return {name: one.replace(annotation=hints.get(name, Any)) for name, one in found.items()}


def _types(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the only one."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (NoneType if annotation is Any else annotation,)


def _names(kind: Any) -> list[str]:
    origin = get_origin(kind)
    if origin is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [str(getattr(origin or kind, "__name__", kind))]
