"""The section search_spaces -> parameters, with every mistake named before anything runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from classifier.errors import ConfigError
from classifier.tuning.space import Parameter, SearchSpace

# distribution -> the keys that it takes, required ones first.
_TAKES = {
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "discrete_uniform": ("low", "high", "step"),
    "categorical": ("choices",),
}
_REQUIRED = {"categorical": ("choices",), "discrete_uniform": ("low", "high", "step")}
_PLAIN = (type(None), bool, int, float, str)


def parse_space(section: Any, key: str = "optuna.search_spaces") -> SearchSpace:
    """Read the section search_spaces.

    Args:
        section: Dotted key -> its distribution.
        key: Where it stands, for messages.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    if not isinstance(section, Mapping) or not section:
        raise ConfigError(
            key, "must name at least one key to search", got=section,
            remedy="Write model.init_args.optimizer_config.lr: "
            "{distribution: loguniform, low: 1e-5, high: 1e-2}",
        )  # fmt: skip
    problems: list[ConfigError] = []
    found: dict[str, Parameter] = {}
    for name, spec in section.items():
        try:
            found[str(name)] = _parameter(str(name), spec, f"{key}.{name}")
        except ConfigError as error:
            problems.append(error)
    problems.extend(_twice(found, key))
    conditioned: dict[str, Parameter] = {}
    for name, parameter in found.items():
        try:
            when = section[name].get("when") or {}
            conditioned[name] = _with_conditions(parameter, when, found, f"{key}.{name}.when")
        except ConfigError as error:
            problems.append(error)
    ordered: list[Parameter] = []
    if not problems:
        try:
            ordered = _ordered(conditioned, key)
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.together(problems)
    return SearchSpace(ordered)


def _twice(names: Iterable[str], key: str) -> Iterator[ConfigError]:
    """One key in two spellings: of two values only one would be used."""
    first: dict[tuple[str, ...], str] = {}
    for name in names:
        words = tuple(w.lstrip("0") or "0" if w.isdigit() else w for w in name.split("."))
        words = tuple(word for word in words if word != "init_args")
        if words in first:
            yield ConfigError(f"{key}.{name}", f"is the same key as {first[words]}")
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
    if not isinstance(kind, str) or kind not in _TAKES:
        raise ConfigError(
            f"{key}.distribution", "is missing" if kind is None else "unknown distribution",
            remedy=f"Write one of {', '.join(_TAKES)}", name=str(kind), options=_TAKES,
            **({} if kind is None else {"got": kind}),
        )  # fmt: skip
    for word in spec:
        takes = (*_TAKES[kind], "distribution", "when")
        if word not in takes:
            raise ConfigError(
                f"{key}.{word}", f"{kind} takes no {word!r}",
                remedy=f"It takes {', '.join(_TAKES[kind])}", name=str(word), options=takes,
            )  # fmt: skip
    for word in _REQUIRED.get(kind, ("low", "high")):
        if spec.get(word) is None:
            raise ConfigError(f"{key}.{word}", "is missing", remedy=f"{kind} needs {word}")
    if kind == "categorical":
        return _categorical(name, spec["choices"], f"{key}.choices")
    return Parameter(name, _range(kind, spec, key))


def _range(kind: str, spec: Mapping[str, Any], key: str) -> BaseDistribution:
    whole = kind == "int"
    for word in ("low", "high", "step"):
        value = spec.get(word)
        if value is not None:
            _check_number(value, f"{key}.{word}", whole=whole)
    low, high, step = spec["low"], spec["high"], spec.get("step")
    log = bool(kind == "loguniform" or spec.get("log"))
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
    if whole:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _check_number(value: Any, key: str, *, whole: bool) -> None:
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    # Optuna keeps numbers as floats: whole ones beyond 2^53 would come back as others.
    if not good or not abs(value) <= 2**53:
        raise ConfigError(key, f"must be a {'whole ' if whole else ''}number", got=value)


def _categorical(name: str, choices: Any, key: str) -> Parameter:
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
        if isinstance(choice, float) and not math.isfinite(choice):
            raise ConfigError(f"{key}.{index}", "must be finite", got=choice)
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


def _with_conditions(
    parameter: Parameter, when: Any, found: Mapping[str, Parameter], key: str
) -> Parameter:
    if not isinstance(when, Mapping):
        raise ConfigError(
            key, "must be a mapping of another searched key to its value or values", got=when
        )
    conditions: dict[str, tuple[Any, ...]] = {}
    for other, wanted in when.items():
        if other not in found or other == parameter.key:
            raise ConfigError(
                f"{key}.{other}", "is not another searched key",
                remedy=f"The searched keys are {', '.join(found)}",
                name=str(other), options=[name for name in found if name != parameter.key],
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
    return Parameter(parameter.key, parameter.distribution, parameter.named, conditions)


def _ordered(parameters: Mapping[str, Parameter], key: str) -> list[Parameter]:
    ordered: dict[str, Parameter] = {}
    while len(ordered) < len(parameters):
        ready = [
            parameter
            for name, parameter in parameters.items()
            if name not in ordered and all(other in ordered for other in parameter.when)
        ]
        if not ready:
            names = [name for name in parameters if name not in ordered]
            raise ConfigError(f"{key}.{names[0]}.when", f"{', '.join(names)} depend on each other")
        ordered[ready[0].key] = ready[0]
    return list(ordered.values())


def _shown(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return f"{distribution.low} to {distribution.high}"
