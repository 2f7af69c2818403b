"""The section `optuna` of a configuration, read and checked as far as it goes without the model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from classifier.errors import ConfigError
from classifier.masking import masked
from classifier.tuning.distributions import parse_space
from classifier.tuning.launching import LAUNCHERS
from classifier.tuning.samplers import build_pruner, build_sampler, check_grid
from classifier.tuning.space import SearchSpace

_DIRECTIONS = ("minimize", "maximize")
_KEYS = (
    "tune", "n_trials", "direction", "metric", "directions", "metrics", "search_spaces",
    "study_name", "storage", "sampler", "pruner", "timeout_seconds", "trial_timeout_seconds",
    "n_jobs", "devices", "max_failures", "confirm", "launcher",
)  # fmt: skip
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Objective:
    """One metric that a sweep optimises.

    Args:
        metric: Its name, as logged.
        direction: minimize or maximize.
    """

    metric: str
    direction: str

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "maximize" else -1


@dataclass(frozen=True)
class Confirm:
    """How many of the best trials are repeated, and over how many seeds."""

    top_k: int
    seeds: int


@dataclass(frozen=True)
class Settings:
    """The section `optuna`.

    Args:
        n_trials: Trials in total, over all starts of the study and all drivers.
        objectives: One, or several for a Pareto front.
        space: What is searched.
        study_name: Name of the study; runs/<study_name>/ is its folder.
        storage: URL of Optuna's storage, secrets filled in; None for SQLite in the study folder.
        storage_shown: The same as the user wrote it, for messages.
        sampler: class_path and init_args; None for TPE.
        pruner: class_path and init_args; None for Optuna's median pruner.
        timeout_seconds: After so long no further trial starts.
        trial_timeout_seconds: A trial that takes longer has failed.
        n_jobs: Trials at a time.
        devices: GPUs, one trial on each at a time, numbered as for the trainer; `auto` for all.
        max_failures: The sweep ends when so many trials have failed.
        confirm: Repeats the best trials and the default over seeds.
        launcher: forkserver or subprocess; None for what the machine and the trainer allow.
    """

    n_trials: int
    objectives: tuple[Objective, ...]
    space: SearchSpace
    study_name: str
    storage: str | None = None
    storage_shown: str | None = None
    sampler: Mapping[str, Any] | None = None
    pruner: Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    trial_timeout_seconds: float | None = None
    n_jobs: int | None = None
    devices: tuple[int, ...] | str | None = None
    max_failures: int | None = None
    confirm: Confirm | None = None
    launcher: str | None = None

    @property
    def objective(self) -> Objective:
        """The first one."""
        return self.objectives[0]

    @property
    def metrics(self) -> list[str]:
        """The names of all."""
        return [objective.metric for objective in self.objectives]


def parse_settings(section: Mapping[str, Any], experiment: str) -> Settings:
    """Read the section.

    Args:
        section: As it stands in the configuration.
        experiment: Name of the study where the section gives none.

    Raises:
        ConfigError: everything that is wrong with it, in one message.
    """
    reader = _Section(section)
    for name in section:
        if name not in _KEYS:
            reader.add(
                str(name), "unknown key", remedy=f"The keys are {', '.join(_KEYS)}",
                name=str(name), options=_KEYS,
            )  # fmt: skip
    url = reader.text("storage")
    settings = {
        "n_trials": reader.number("n_trials", whole=True) or 0,
        "objectives": reader.objectives(),
        "space": reader.collecting(lambda: parse_space(section.get("search_spaces"))),
        "study_name": reader.text("study_name") or experiment,
        "storage": None if url is None else reader.collecting(lambda: _filled_in(url)),
        "storage_shown": None if url is None else masked(url),
        "sampler": reader.class_spec("sampler", "TPESampler", build_sampler),
        "pruner": reader.class_spec("pruner", "MedianPruner", build_pruner),
        "timeout_seconds": reader.number("timeout_seconds"),
        "trial_timeout_seconds": reader.number("trial_timeout_seconds"),
        "n_jobs": reader.number("n_jobs", whole=True),
        "devices": reader.devices(),
        "max_failures": reader.number("max_failures", whole=True),
        "confirm": reader.confirm(),
        "launcher": reader.one_of("launcher", LAUNCHERS),
    }
    if section.get("n_trials") is None:
        reader.add("n_trials", "is missing", remedy="Write how many trials the study has in total")
    reader.check_together()
    if settings["space"] is not None and settings["sampler"] is not None:
        reader.collecting(lambda: check_grid(settings["sampler"], settings["space"]))
    if reader.problems:
        raise ConfigError.together(reader.problems)
    return Settings(**settings)


def parse_objectives(section: Mapping[str, Any]) -> tuple[Objective, ...]:
    """The metrics and directions of the section, as far as they can be read."""
    return _Section(section).objectives()


def shown(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section without its password."""
    url = section.get("storage")
    return {**section, "storage": masked(url)} if isinstance(url, str) else dict(section)


def _filled_in(url: str) -> str:
    """`${NAME}` replaced by the environment's variables."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(
                "optuna.storage", f"the environment has no variable {match[1]}",
                remedy=f"Write export {match[1]}=... before the command",
            )  # fmt: skip
        found = os.environ[match[1]]
        # A part of a URL is quoted where it must be; a whole URL, and what is quoted, stays.
        plain = match[0] == url or re.fullmatch(r"[\w.~%+-]*", found)
        return found if plain else quote(found, safe="")

    filled = _VARIABLE.sub(value, url)
    if "://" not in filled:
        raise ConfigError(
            "optuna.storage", "must be a URL", got=masked(url),
            remedy="Write sqlite:///path/study.db or postgresql://host/database, or null",
        )  # fmt: skip
    return filled


class _Section:
    """Reads keys one by one and remembers what is wrong with them."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        self.section = section
        self.problems: list[ConfigError] = []

    def add(self, word: str, problem: str, **more: Any) -> None:
        self.problems.append(ConfigError(f"optuna.{word}", problem, **more))

    def collecting(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ConfigError as error:
            self.problems.append(error)
            return None

    def number(self, name: str, *, whole: bool = False) -> Any:
        value = self.section.get(name)
        if value is None:
            return None
        good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not good or not 0 < value < 2**53:
            self.add(name, f"must be a {'whole ' if whole else ''}number above 0", got=value)
            return None
        return value

    def text(self, name: str) -> str | None:
        value = self.section.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            self.add(name, "must be text", got=value)
            return None
        return value

    def one_of(self, name: str, options: tuple[str, ...]) -> str | None:
        value = self.section.get(name)
        if value is not None and value not in options:
            self.add(
                name, "unknown value", got=value, remedy=f"Write one of {', '.join(options)}",
                name=str(value), options=options,
            )  # fmt: skip
            return None
        return value

    def objectives(self) -> tuple[Objective, ...]:
        metrics = self._listed("metric", "validation_f1_score")
        directions = self._listed("direction", "maximize or minimize")
        if len(set(map(str, metrics))) < len(metrics):
            self.add("metrics", "names a metric twice", got=metrics)
        for value in directions:
            if value not in _DIRECTIONS:
                self.add(
                    "direction" if "direction" in self.section else "directions",
                    "unknown direction", got=value, remedy="Write minimize or maximize",
                    name=str(value), options=_DIRECTIONS,
                )  # fmt: skip
        if metrics and directions and len(metrics) != len(directions):
            self.add(
                "directions", f"there must be one for each of the {len(metrics)} metrics",
                got=directions,
            )  # fmt: skip
            return ()
        return tuple(Objective(*pair) for pair in zip(metrics, directions, strict=False))

    def _listed(self, single: str, example: str) -> list[str]:
        """The values of a key that has one, or of its plural that has several."""
        several = f"{single}s"
        value, values = self.section.get(single), self.section.get(several)
        if values is not None:
            if value is not None:
                self.add(several, f"stands beside {single}", remedy=f"Keep {several} only")
            if isinstance(values, list) and values:
                return values
            self.add(several, "must be a list", got=values)
        elif value is None:
            self.add(single, "is missing", remedy=f"Write {single}: {example}")
        elif isinstance(value, str):
            return [value]
        else:
            self.add(single, "must be text", got=value, remedy=f"For several, write {several}")
        return []

    def class_spec(
        self, name: str, example: str, build: Callable[[Mapping[str, Any]], Any]
    ) -> Mapping[str, Any] | None:
        """A sampler or pruner, built once to see whether it can be."""
        value = self.section.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            value = {"class_path": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
            self.add(name, "must be a class", got=value, remedy=f"Write class_path: {example}")
            return None
        for word in value:
            if word not in ("class_path", "init_args"):
                self.add(
                    f"{name}.{word}", "unknown key", remedy="It takes class_path and init_args"
                )
                return None
        self.collecting(lambda: build(value))
        return value

    def devices(self) -> tuple[int, ...] | str | None:
        value = self.section.get("devices")
        if value is None or value == "auto":
            return value
        good = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
        if not good or not value or len(set(value)) < len(value):
            self.add("devices", "must be a list of GPU numbers, or auto", got=value)
            return None
        return tuple(value)

    def confirm(self) -> Confirm | None:
        value = self.section.get("confirm")
        if value is None:
            return None
        names = ("top_k", "seeds")
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            self.add("confirm", "must be a mapping", got=value, remedy="Write {top_k: 3, seeds: 3}")
            return None
        numbers = [value.get(name, 3) for name in names]
        for name, number, least in zip(names, numbers, (1, 2), strict=True):
            if type(number) is not int or number < least:
                self.add(
                    f"confirm.{name}", f"must be a whole number of at least {least}", got=number
                )
                return None
        return Confirm(*numbers)

    def check_together(self) -> None:
        """What one key says of another."""
        section = self.section
        several = isinstance(section.get("metrics"), list) and len(section["metrics"]) > 1
        if several and section.get("pruner") is not None:
            self.add("pruner", "Optuna prunes for a single objective only", remedy="Write null")
        if several and section.get("confirm") is not None:
            self.add("confirm", "compares trials by a single objective", remedy="Write null")
        devices, jobs = section.get("devices"), section.get("n_jobs")
        if isinstance(devices, list) and isinstance(jobs, int) and jobs > len(devices):
            self.add(
                "n_jobs", f"is more than the {len(devices)} devices; a device takes one trial",
                got=jobs, remedy=f"Write {len(devices)}",
            )  # fmt: skip
