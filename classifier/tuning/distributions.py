"""The section search_spaces -> parameters, with every mistake named before anything runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from classifier.errors import ConfigError
from classifier.importing import parameters_of
from classifier.tuning.space import Distribution, Parameter, SearchSpace

_KEY = "optuna.search_spaces"

_PLAIN = (type(None), bool, int, float, str)


def parse_space(section: Any) -> SearchSpace:
    """Read the section search_spaces: dotted key -> its distribution.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    if not isinstance(section, Mapping) or not section:
        raise ConfigError(
            _KEY, "must name at least one key to search", got=section,
            remedy="Write model.init_args.optimizer_config.lr: "
            "{distribution: loguniform, low: 1e-5, high: 1e-2}",
        )  # fmt: skip
    problems: list[ConfigError] = []
    found: dict[str, Parameter] = {}
    for name, spec in section.items():
        try:
            found[str(name)] = _parameter(str(name), spec, f"{_KEY}.{name}")
        except ConfigError as error:
            problems.append(error)
    problems.extend(_twice(found))
    conditioned: list[Parameter] = []
    for name, parameter in found.items():
        try:
            when = _conditions(name, section[name].get("when") or {}, found)
            conditioned.append(replace(parameter, when=when))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.together(problems)
    return SearchSpace(_ordered(conditioned))


def _twice(names: Iterable[str]) -> Iterator[ConfigError]:
    """One key in two spellings: of two values only one would be used."""
    first: dict[tuple[str, ...], str] = {}
    for name in names:
        words = tuple(w.lstrip("0") or "0" if w.isdigit() else w for w in name.split("."))
        words = tuple(word for word in words if word != "init_args")
        if words in first:
            yield ConfigError(f"{_KEY}.{name}", f"is the same key as {first[words]}")
        first.setdefault(words, name)


def _parameter(name: str, spec: Any, key: str) -> Parameter:
    if name.partition(".")[0] not in ("model", "data", "trainer", "seed_everything"):
        raise ConfigError(
            key, "is no key that a trial can set", remedy="Search keys below model, data or trainer"
        )
    if not isinstance(spec, Mapping):
        raise ConfigError(
            key, "must be a mapping", got=spec,
            remedy="Write {distribution: uniform, low: 0.0, high: 1.0}",
        )  # fmt: skip
    kind = spec.get("distribution")
    if not isinstance(kind, str) or kind not in _DISTRIBUTIONS:
        raise ConfigError(
            f"{key}.distribution", "is missing" if kind is None else "unknown distribution",
            remedy=f"Write one of {', '.join(_DISTRIBUTIONS)}",
            name=str(kind), options=_DISTRIBUTIONS,
            **({} if kind is None else {"got": kind}),
        )  # fmt: skip
    make = _DISTRIBUTIONS[kind]
    known = parameters_of(make) or {}
    takes = {word: needed for word, needed in known.items() if word not in ("name", "key")}
    for word in spec:
        options = (*takes, "distribution", "when")
        if word not in options:
            raise ConfigError(
                f"{key}.{word}", f"{kind} takes no {word!r}",
                remedy=f"It takes {', '.join(takes)}", name=str(word), options=options,
            )  # fmt: skip
    given = {word: spec[word] for word in takes if spec.get(word) is not None}
    for word, needed in takes.items():
        if needed and word not in given:
            raise ConfigError(f"{key}.{word}", "is missing", remedy=f"{kind} needs {word}")
    return make(name, key, **given)


# The distributions by name. Each takes the searched key, the dotted path of its section for
# messages, and as further arguments the keys of that section.


def _uniform(name: str, key: str, low: Any, high: Any) -> Parameter:
    return _float(name, key, low, high)


def _loguniform(name: str, key: str, low: Any, high: Any) -> Parameter:
    return _float(name, key, low, high, log=True)


def _discrete_uniform(name: str, key: str, low: Any, high: Any, step: Any) -> Parameter:
    return _float(name, key, low, high, step=step)


def _float(
    name: str, key: str, low: Any, high: Any, log: Any = False, step: Any = None
) -> Parameter:
    _check_range(key, low, high, log, step, whole=False)
    return Parameter(name, FloatDistribution(float(low), float(high), log=bool(log), step=step))


def _int(name: str, key: str, low: Any, high: Any, log: Any = False, step: Any = None) -> Parameter:
    _check_range(key, low, high, log, step, whole=True)
    return Parameter(name, IntDistribution(low, high, log=bool(log), step=step or 1))


def _check_range(key: str, low: Any, high: Any, log: Any, step: Any, *, whole: bool) -> None:
    for word, value in (("low", low), ("high", high), ("step", step)):
        if value is not None:
            _check_number(value, f"{key}.{word}", whole=whole)
    if low > high:
        raise ConfigError(f"{key}.low", f"must be at most high ({high})", got=low)
    if log and low <= 0:
        raise ConfigError(
            f"{key}.low", "must be above 0 on a logarithmic scale", got=low,
            remedy="Write a small positive number, or a linear distribution",
        )  # fmt: skip
    if step is not None and step <= 0:
        raise ConfigError(f"{key}.step", "must be above 0", got=step)
    if log and step is not None and not (whole and step == 1):
        raise ConfigError(f"{key}.step", "cannot stand beside log: true", got=step)
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-8:
        last = low + math.floor((high - low) / step) * step
        raise ConfigError(
            f"{key}.high", f"is not reached from {low} in steps of {step}", got=high,
            remedy=f"Write {last:.10g}",
        )  # fmt: skip


def _check_number(value: Any, key: str, *, whole: bool) -> None:
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    # Optuna keeps numbers as floats: whole ones beyond 2^53 would come back as others.
    if not good or not abs(value) <= 2**53:
        raise ConfigError(key, f"must be a {'whole ' if whole else ''}number", got=value)


def _categorical(name: str, key: str, choices: Any) -> Parameter:
    key = f"{key}.choices"
    if isinstance(choices, Mapping) and choices:
        named = {str(label): choice for label, choice in choices.items()}
        if len(named) < len(choices):
            raise ConfigError(
                key, "names a choice twice: names are text", got=list(choices),
                remedy="Give each choice a name of its own",
            )  # fmt: skip
        return Parameter(name, CategoricalDistribution(list(named)), named)
    if not isinstance(choices, list) or not choices:
        raise ConfigError(
            key, "must be a list of values, or a mapping of names to values", got=choices
        )
    for index, choice in enumerate(choices):
        try:
            json.dumps(choice, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{key}.{index}", "must be plain data without nan or dates", got=choice
            ) from None
        if choice in choices[:index]:
            raise ConfigError(f"{key}.{index}", "equals an earlier choice", got=choice)
    if all(isinstance(choice, _PLAIN) for choice in choices):
        return Parameter(name, CategoricalDistribution(choices))
    short = [_label(choice) for choice in choices]
    labels = [
        label if short.count(label) == 1 else json.dumps(choice, sort_keys=True)
        for label, choice in zip(short, choices, strict=True)
    ]
    return Parameter(name, CategoricalDistribution(labels), dict(zip(labels, choices, strict=True)))


def _label(choice: Any) -> str:
    """A short name of a choice: its class or `name`, else its content."""
    if isinstance(choice, Mapping):
        for word in ("name", "class_path"):
            if isinstance(choice.get(word), str):
                return str(choice[word]).rpartition(".")[2]
    return choice if isinstance(choice, str) else json.dumps(choice, sort_keys=True)


_DISTRIBUTIONS: dict[str, Callable[..., Parameter]] = {
    "uniform": _uniform,
    "loguniform": _loguniform,
    "float": _float,
    "int": _int,
    "discrete_uniform": _discrete_uniform,
    "categorical": _categorical,
}


def _conditions(name: str, when: Any, found: Mapping[str, Parameter]) -> dict[str, tuple[Any, ...]]:
    """The section `when` of a parameter: another searched key -> its stored values."""
    key = f"{_KEY}.{name}.when"
    if not isinstance(when, Mapping):
        raise ConfigError(
            key, "must be a mapping of another searched key to its value or values", got=when
        )
    conditions: dict[str, tuple[Any, ...]] = {}
    for other, wanted in when.items():
        if other not in found or other == name:
            raise ConfigError(
                f"{key}.{other}", "is not another searched key",
                remedy=f"The searched keys are {', '.join(found)}",
                name=str(other), options=[option for option in found if option != name],
            )  # fmt: skip
        values = wanted if isinstance(wanted, list) else [wanted]
        stored = tuple(found[other].stored_of(value) for value in values)
        for value in stored:
            if not found[other].holds(value):
                raise ConfigError(
                    f"{key}.{other}", "is not in that key's search space", got=value,
                    remedy=f"It holds {_shown(found[other].distribution)}",
                )  # fmt: skip
        if not stored:
            raise ConfigError(f"{key}.{other}", "must name at least one value", got=wanted)
        conditions[str(other)] = stored
    return conditions


def _ordered(parameters: list[Parameter]) -> list[Parameter]:
    """Every parameter after those in its `when`."""
    ordered: dict[str, Parameter] = {}
    while len(ordered) < len(parameters):
        left = [parameter for parameter in parameters if parameter.key not in ordered]
        ready = [parameter for parameter in left if set(parameter.when) <= set(ordered)]
        if not ready:
            names = [parameter.key for parameter in left]
            raise ConfigError(f"{_KEY}.{names[0]}.when", f"{', '.join(names)} depend on each other")
        ordered[ready[0].key] = ready[0]
    return list(ordered.values())


def _shown(distribution: Distribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    return f"{distribution.low} to {distribution.high}"
