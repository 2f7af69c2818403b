"""Samplers and pruners: any of Optuna's, or of the user's own, by class_path."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, TPESampler

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path, public_names
from classifier.tuning.space import SearchSpace

# Their seed orders all points of the study: a grid, a quasi-random sequence.
_ONE_SEED = ("GridSampler", "QMCSampler")
_KINDS = {"sampler": BaseSampler, "pruner": BasePruner}


def build_sampler(spec: Mapping[str, Any] | None, seed: int, *, conditional: bool) -> BaseSampler:
    """The sampler of a configuration; TPE where it names none.

    Args:
        spec: class_path and init_args.
        seed: Its seed, as `seed_for` gives it, where the class takes one.
        conditional: Whether parameters exist only for some values of others.
    """
    if spec is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, group=conditional)
    arguments = {k: v for k, v in (spec.get("init_args") or {}).items() if k != "seed"}
    own = {"class_path": spec["class_path"], "init_args": arguments}
    built: BaseSampler = build_plugin(own, "optuna.sampler", {"seed": seed})
    return built


def build_pruner(spec: Mapping[str, Any] | None) -> BasePruner:
    """The pruner of a configuration; Optuna's default, the median, where it names none."""
    if spec is None:
        return optuna.pruners.MedianPruner()
    built: BasePruner = build_plugin(spec, "optuna.pruner")
    return built


def seed_for(spec: Mapping[str, Any] | None, base: int, number: int) -> int:
    """The seed of the draw for one trial.

    A sampler that is made anew with the same seed draws the same values again: after a resume, and
    in every driver. So each trial has a seed of its own, except where the seed orders all points.

    Args:
        spec: The sampler's class_path and init_args.
        base: seed_everything; a seed in the sampler's own init_args goes before it.
        number: Of the trial.
    """
    if spec is not None:
        given = (spec.get("init_args") or {}).get("seed")
        base = base if given is None else int(given)
        if str(spec["class_path"]).endswith(_ONE_SEED):
            return base
    return (base + number) % 2**32


def check_grid(spec: Mapping[str, Any], space: SearchSpace) -> None:
    """Compare the points of a GridSampler with the search space that they are drawn from.

    Args:
        spec: The sampler's class_path and init_args; other samplers have no points.
        space: What is searched.

    Raises:
        ConfigError: a key stands in one of them only, or a point lies outside.
    """
    points = (spec.get("init_args") or {}).get("search_space")
    if not str(spec["class_path"]).endswith("GridSampler") or not isinstance(points, Mapping):
        return
    key = "optuna.sampler.init_args.search_space"
    for name in [*points, *space.parameters]:
        if name not in points or name not in space.parameters:
            where = "search_spaces" if name in points else "the grid"
            raise ConfigError(
                f"{key}.{name}", f"is missing in {where}",
                remedy="The grid and optuna.search_spaces must hold the same keys",
            )  # fmt: skip
    for name, values in points.items():
        for value in values:
            if not space.parameters[name].holds(value):
                raise ConfigError(f"{key}.{name}", "lies outside of its search space", got=value)


def build_plugin(
    spec: Mapping[str, Any], key: str, defaults: Mapping[str, Any] | None = None
) -> Any:
    """A sampler or pruner from its class_path.

    Args:
        spec: class_path and init_args, nested where an argument is a sampler or pruner itself.
        key: The configuration key: optuna.sampler or optuna.pruner.
        defaults: Arguments that are given where the class takes them and the user gave none.

    Raises:
        ConfigError: no such class, one of another kind, or arguments that it refuses.
    """
    kind = key.rpartition(".")[2]
    built = _build(spec, key, f"optuna.{kind}s", defaults or {})
    if not isinstance(built, _KINDS[kind]):
        raise _unknown(f"{key}.class_path", spec["class_path"], kind)
    return built


def _unknown(key: str, name: str, kind: str) -> ConfigError:
    names = public_names(import_module(f"optuna.{kind}s"))
    options = [n for n in names if n.endswith(kind.title()) and not n.startswith("Base")]
    return ConfigError(
        key, f"is no {kind} of Optuna", got=name, remedy=f"Optuna has {', '.join(options)}",
        name=name, options=options,
    )  # fmt: skip


def _build(spec: Mapping[str, Any], key: str, module: str, defaults: Mapping[str, Any]) -> Any:
    path = str(spec["class_path"])
    if not isinstance(spec.get("init_args") or {}, Mapping):
        raise ConfigError(f"{key}.init_args", "must be a mapping", got=spec["init_args"])
    if "." not in path and not hasattr(import_module(module), path):
        raise _unknown(f"{key}.class_path", path, module.rpartition(".")[2].removesuffix("s"))
    cls = import_path(path if "." in path else f"{module}.{path}", f"{key}.class_path")
    arguments = {
        name: _build(value, f"{key}.init_args.{name}", module, {})
        if isinstance(value, Mapping) and "class_path" in value
        else value
        for name, value in (spec.get("init_args") or {}).items()
    }
    check_arguments(cls, arguments, f"{key}.init_args")
    takes = inspect.signature(cls).parameters
    for name, value in defaults.items():
        if name in takes and arguments.get(name) is None:
            arguments[name] = value
    try:
        with warnings.catch_warnings():
            # Who names an experimental class in a configuration means it.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return cls(**arguments)
    except (ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(key, f"{cls.__name__} refuses this: {reason}") from error
