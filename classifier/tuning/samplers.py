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

from classifier.errors import ConfigError, reason_of
from classifier.importing import check_arguments, import_path, public_names
from classifier.tuning.space import SearchSpace

# Their seed orders all points of the study: a grid, a quasi-random sequence.
_ONE_SEED = ("GridSampler", "QMCSampler")
_KINDS = {"sampler": BaseSampler, "pruner": BasePruner}


def build_sampler(
    spec: Mapping[str, Any] | None, seed: int | None = None, *, conditional: bool = False
) -> BaseSampler:
    """The sampler of a configuration; TPE where it names none.

    Args:
        spec: class_path and init_args, nested where an argument is a sampler itself.
        seed: As `seed_for` gives it, for a class that takes one; goes before one in init_args.
        conditional: Whether parameters exist only for some values of others.

    Raises:
        ConfigError: no such class, one of another kind, or arguments that it refuses.
    """
    if spec is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, group=conditional)
    built: BaseSampler = _built(spec, "sampler", seed)
    return built


def build_pruner(spec: Mapping[str, Any] | None) -> BasePruner:
    """The pruner of a configuration, as `build_sampler`; the median one where it names none."""
    if spec is None:
        return optuna.pruners.MedianPruner()
    built: BasePruner = _built(spec, "pruner", None)
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


def _built(spec: Mapping[str, Any], kind: str, seed: int | None) -> Any:
    built = _build(spec, f"optuna.{kind}", kind, seed)
    if not isinstance(built, _KINDS[kind]):
        raise _unknown(f"optuna.{kind}.class_path", spec["class_path"], kind)
    return built


def _unknown(key: str, name: str, kind: str) -> ConfigError:
    names = public_names(import_module(f"optuna.{kind}s"))
    options = [n for n in names if n.endswith(kind.title()) and not n.startswith("Base")]
    return ConfigError(
        key, f"is no {kind} of Optuna", got=name, remedy=f"Optuna has {', '.join(options)}",
        name=name, options=options,
    )  # fmt: skip


def _build(spec: Mapping[str, Any], key: str, kind: str, seed: int | None) -> Any:
    path, module = str(spec["class_path"]), f"optuna.{kind}s"
    given = spec.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key}.init_args", "must be a mapping", got=given)
    if "." not in path and not hasattr(import_module(module), path):
        raise _unknown(f"{key}.class_path", path, kind)
    cls = import_path(path if "." in path else f"{module}.{path}", f"{key}.class_path")
    arguments = {
        name: _build(value, f"{key}.init_args.{name}", kind, None)
        if isinstance(value, Mapping) and "class_path" in value
        else value
        for name, value in given.items()
    }
    check_arguments(cls, arguments, f"{key}.init_args")
    if seed is not None and "seed" in {*inspect.signature(cls).parameters, *arguments}:
        arguments["seed"] = seed
    try:
        with warnings.catch_warnings():
            # Who names an experimental class in a configuration means it.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return cls(**arguments)
    except (ImportError, TypeError, ValueError) as error:
        reason = reason_of(error)
        raise ConfigError(key, f"{cls.__name__} refuses this: {reason}") from error
