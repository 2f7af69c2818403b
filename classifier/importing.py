"""Classes by import path, and their arguments by name, with errors that name the dotted key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from classifier.errors import ConfigError

_NO_DEFAULT = inspect.Parameter.empty
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def import_path(path: str, key: str) -> Any:
    """The object that a dotted import path names.

    Args:
        path: For example `torch.optim.AdamW`.
        key: The configuration key that holds it, for the message.

    Raises:
        ConfigError: no such module, or no such name in it; names the nearest one.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module was found; something that it imports was not
        raise ConfigError(
            key, f"there is no module {module_name!r}", got=path,
            remedy="Write an import path such as torch.optim.AdamW; install its package, or put "
            "your own file beside main.py",
        ) from error  # fmt: skip
    if not hasattr(module, name):
        raise ConfigError(
            key, f"{module_name} has no {name!r}", got=path, remedy="Correct the name",
            name=name, options=public_names(module),
        )  # fmt: skip
    return getattr(module, name)


def is_own_class(path: str, packages: Collection[str]) -> bool:
    """Whether a dotted path names a class that one of these packages defines, or nothing at all.

    Args:
        path: Its first part is one of the packages. Only their modules are imported.
        packages: Top-level names.
    """
    *modules, name = path.strip().split(".")
    try:
        module = import_module(".".join(modules))
    except ImportError:
        # A module that another one has imported is no module of the package itself.
        return not _exists(modules, name)
    found = getattr(module, name, None)
    if found is None or isinstance(found, ModuleType):
        return True
    return isinstance(found, type) and found.__module__.partition(".")[0] in packages


def _exists(modules: list[str], name: str) -> bool:
    """Whether a path leads anywhere through the attributes of its first module."""
    found: Any = import_module(modules[0])
    for part in (*modules[1:], name):
        found = getattr(found, part, None)
    return found is not None


def public_names(module: Any) -> list[str]:
    """The names of a module that a configuration may mean."""
    return [name for name in dir(module) if not name.startswith("_")]


def parameters_of(function: Callable[..., Any]) -> dict[str, bool] | None:
    """The parameters that can be given by name, each with whether it is required.

    Returns:
        None when the function takes any keyword, so that nothing can be said.
    """
    found = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found):
        return None
    return {
        p.name: p.default is _NO_DEFAULT for p in found if p.kind in _BY_NAME and p.name != "self"
    }


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    key: str,
    hidden: Collection[str] = (),
    beside: Collection[str] = (),
) -> None:
    """Refuse arguments that a class or function does not take.

    Args:
        function: What will be called.
        arguments: What it will be called with.
        key: The configuration key that holds the arguments.
        hidden: Parameters that are not the user's to give.
        beside: Keys that stand beside the arguments, for the message.

    Raises:
        ConfigError: names the argument and the nearest parameter.
    """
    known = parameters_of(function)
    if known is None:
        return
    options = [*(name for name in known if name not in hidden), *beside]
    for name in arguments:
        if name not in options:
            raise ConfigError(
                f"{key}.{name}", f"{getattr(function, '__name__', function)} takes no "
                f"{str(name)!r}", remedy=f"It takes {_listed(options)}", name=str(name),
                options=options,
            )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    """The names; of very many the first."""
    few = names if len(names) <= 16 else names[:12]
    more = len(names) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")
