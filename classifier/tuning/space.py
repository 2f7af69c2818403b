"""The search space: what a trial draws, and the overrides of the configuration that it makes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from classifier.trees import lookup, replace_value

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Parameter:
    """One searched key.

    Args:
        key: Dotted path in the configuration, which is also the parameter's name in the study.
        distribution: Optuna's.
        named: For choices that Optuna cannot store (mappings, lists): name -> choice.
        when: Other searched keys -> the stored values for which this parameter exists.
    """

    key: str
    distribution: Distribution
    named: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def stored_of(self, value: Any, apart_from: Collection[str] = ()) -> Any:
        """What the study holds for a value: the name of the choice that it is, else itself.

        Args:
            value: Of the configuration.
            apart_from: Keys of a mapping in which it may differ from the choice.
        """

        def kept(tree: Any) -> Any:
            if not isinstance(tree, Mapping):
                return tree
            return {key: inner for key, inner in tree.items() if key not in apart_from}

        names = (name for name, choice in self.named.items() if same(kept(choice), kept(value)))
        return next(names, value)

    def holds(self, stored: Any) -> bool:
        """Whether a stored value lies in the distribution."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return any(same(choice, stored) for choice in found.choices)
        if isinstance(stored, bool) or not isinstance(stored, int | float):
            return False
        if isinstance(found, IntDistribution) and not isinstance(stored, int):
            return False
        if not found.low <= stored <= found.high:
            return False
        steps = (stored - found.low) / found.step if found.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def edges(self) -> list[Any]:
        """The stored values that stand for all: both ends of a range, every choice."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        return [found.low, found.high]


class SearchSpace:
    """What a sweep searches.

    Args:
        parameters: In an order in which every parameter comes after those in its `when`.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = {parameter.key: parameter for parameter in parameters}

    @property
    def is_conditional(self) -> bool:
        """Whether some parameters exist only for some values of others."""
        return any(parameter.when for parameter in self.parameters.values())

    def suggest(self, trial: Trial, only: Iterable[str] | None = None) -> dict[str, Any]:
        """Let a trial draw its values.

        Args:
            trial: Of the study.
            only: The keys to draw; None draws all that apply.

        Returns:
            Dotted key -> stored value.
        """
        keys = set(self.parameters if only is None else only)
        params: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if key in keys and _applies(parameter, params):
                params[key] = _draw(trial, parameter)
        return params

    def applied_to(self, tree: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration, changed in place, with the stored values of a trial."""
        for key in sorted(params, key=lambda key: key.count(".")):  # outer keys before inner ones
            stored = params[key]
            replace_value(tree, key, self.parameters[key].named.get(stored, stored))
        return tree

    def own_values(self, tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What the configuration itself says.

        Args:
            tree: The resolved configuration.

        Returns:
            Dotted key -> stored value where the value lies in the search space; and the keys
            whose own value lies outside of it.
        """
        inside: dict[str, Any] = {}
        outside: list[str] = []
        for key, parameter in self.parameters.items():
            if not _applies(parameter, inside):
                continue
            inner = [k.removeprefix(f"{key}.") for k in self.parameters if k.startswith(f"{key}.")]
            stored = parameter.stored_of(lookup(tree, key), apart_from=inner)
            if parameter.holds(stored):
                inside[key] = stored
            else:
                outside.append(key)
        return inside, outside

    def probes(self) -> Iterator[dict[str, Any]]:
        """Few sets of stored values that together touch every end of every range and every choice.

        Each set is what a trial could draw: conditions are met.
        """
        most = max(len(parameter.edges()) for parameter in self.parameters.values())
        touched: set[tuple[str, int]] = set()
        for index in range(most):
            params: dict[str, Any] = {}
            for key, parameter in self.parameters.items():
                if _applies(parameter, params):
                    edges = parameter.edges()
                    params[key] = edges[min(index, len(edges) - 1)]
                    touched.add((key, min(index, len(edges) - 1)))
            yield params
        for key, parameter in self.parameters.items():
            for index, edge in enumerate(parameter.edges()):
                if (key, index) not in touched:
                    yield {**self.needed_for(key), key: edge}

    def needed_for(self, key: str) -> dict[str, Any]:
        """Values of other parameters under which one applies."""
        needed: dict[str, Any] = {}
        for other, values in self.parameters[key].when.items():
            needed = {**needed, **self.needed_for(other), other: values[0]}
        return needed

    def described(self) -> dict[str, Any]:
        """The space as plain data, equal for equal spaces."""
        return {
            key: {
                "distribution": {
                    "kind": type(parameter.distribution).__name__.removesuffix("Distribution"),
                    **vars(parameter.distribution),
                },
                "named": parameter.named,
                "when": parameter.when,
            }
            for key, parameter in sorted(self.parameters.items())
        }


def _applies(parameter: Parameter, params: Mapping[str, Any]) -> bool:
    return all(
        other in params and any(same(params[other], value) for value in values)
        for other, values in parameter.when.items()
    )


def same(left: Any, right: Any) -> bool:
    """Equality that tells true from 1, in lists and mappings too."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _draw(trial: Trial, parameter: Parameter) -> Any:
    found = parameter.distribution
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(parameter.key, found.choices)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(
            parameter.key, found.low, found.high, step=found.step, log=found.log
        )
    return trial.suggest_float(parameter.key, found.low, found.high, step=found.step, log=found.log)
