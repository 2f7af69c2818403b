"""What a sweep must know before trial 0, found out the way a trial would find it out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from classifier.cli import ClassifierCLI
from classifier.errors import ConfigError
from classifier.model.classifier import ImageClassifier
from classifier.tuning.distributions import parse_space
from classifier.tuning.settings import Objective, Settings, parse_objectives, parse_settings
from classifier.tuning.space import SearchSpace

_SPACES = "optuna.search_spaces"


def check_sweep(
    config: Mapping[str, Any],
    resolved: Mapping[str, Any],
    section: Mapping[str, Any],
    names: Mapping[str, bool | None],
    trainer: Any,
    *,
    class_facts: Mapping[str, Any],
    closed: bool,
) -> dict[str, Any]:
    """Check a sweep's section against the model, data and trainer that it is about.

    Args:
        config: The configuration without the section, which is in order itself.
        resolved: The same with every default filled in.
        section: `optuna`.
        names: Metrics that a training logs -> whether higher is better, None where unknown.
        trainer: Of the configuration.
        class_facts: What the data knows of its classes, as the arguments of a model's `build`.
        closed: Whether no other metric can be logged: no class of the user's own takes part.

    Returns:
        Facts for the sweep: the resolved configuration, num_devices of a trial, and lines that
        say what will be searched.

    Raises:
        ConfigError: everything that is wrong, in one message.
    """
    problems: list[ConfigError] = []
    lines: list[str] = []
    try:
        lines = list(_described(parse_settings(section, "study"), resolved))
    except ConfigError as error:
        problems.append(error)
    problems.extend(_check_objectives(parse_objectives(section), section, names, closed=closed))
    for space in _readable(section.get("search_spaces")):
        problems.extend(_check_space(config, space, class_facts))
    if problems:
        raise ConfigError.together(problems)
    return {
        "config": resolved,
        "num_devices": trainer.num_devices * trainer.num_nodes,
        "lines": lines,
    }


def _described(settings: Settings, resolved: Mapping[str, Any]) -> Iterator[str]:
    """What will be searched, in the words of `--check`."""
    goals = ", ".join(f"{o.direction} {o.metric}" for o in settings.objectives)
    keys = list(settings.space.parameters)
    yield f"sweep: {settings.n_trials} trials, {goals}; {len(keys)} searched: {', '.join(keys)}"
    for key in settings.space.own_values(resolved)[1]:
        yield f"sweep: the configuration's own {key} lies outside of its search space"


def _check_objectives(
    objectives: tuple[Objective, ...],
    section: Mapping[str, Any],
    names: Mapping[str, bool | None],
    *,
    closed: bool,
) -> Iterator[ConfigError]:
    several = section.get("metrics") is not None
    for index, objective in enumerate(objectives):
        key = f"optuna.metrics.{index}" if several else "optuna.metric"
        if objective.metric not in names:
            if closed:
                yield ConfigError(
                    key, "this metric will not be logged", got=objective.metric,
                    remedy=f"The names are {', '.join(names)}",
                    name=str(objective.metric), options=names,
                )  # fmt: skip
            continue
        higher = names[objective.metric]
        right = "maximize" if higher else "minimize"
        wrong = "minimize" if higher else "maximize"
        if higher is not None and objective.direction == wrong:
            yield ConfigError(
                key.replace("metric", "direction"),
                f"{wrong} would look for the worst {objective.metric}",
                got=wrong, remedy=f"Write {right}",
            )  # fmt: skip


def _readable(section: Any) -> Iterator[SearchSpace]:
    """The whole space; where it has mistakes, what can be read of it, key by key."""
    try:
        yield parse_space(section)
    except ConfigError:
        for name, spec in section.items() if isinstance(section, Mapping) else ():
            # What depends on another key may be wrong without it.
            if isinstance(spec, Mapping) and "when" not in spec:
                try:
                    yield parse_space({name: spec})
                except ConfigError:
                    continue  # told by parse_settings


def _check_space(
    config: Mapping[str, Any], space: SearchSpace, class_facts: Mapping[str, Any]
) -> Iterator[ConfigError]:
    """Try both ends of every range and every choice; one by one where something is wrong."""
    checked: set[tuple[str, str]] = set()
    told: set[str] = set()
    for params in space.probes():
        if _try(config, space, params, class_facts) is None:
            continue
        for key, value in params.items():
            if (key, repr(value)) in checked:
                continue
            checked.add((key, repr(value)))
            needed = space.needed_for(key)
            problem = _try(config, space, {**needed, key: value}, class_facts)
            if problem is not None and key not in told:
                told.add(key)
                yield problem.at(f"{_SPACES}.{key}")


def _try(
    config: Mapping[str, Any],
    space: SearchSpace,
    params: Mapping[str, Any],
    class_facts: Mapping[str, Any],
) -> ConfigError | None:
    try:
        tree = space.applied_to(copy.deepcopy(dict(config)), params)
        model, _, _ = ClassifierCLI(tree).build()
        if isinstance(model, ImageClassifier):
            # The data follows a task that the configuration names.
            facts = {**class_facts, "task": model.task or class_facts["task"]}
            model.settle(**facts)
            if any("model_name" in key for key in params):
                # Whether an encoder exists shows only when it is built; its weights are then here.
                model.build(**facts)
    except ConfigError as error:
        return error
    return None
