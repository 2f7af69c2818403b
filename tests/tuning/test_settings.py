"""The section optuna: every mistake named, every default as documented."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from classifier.errors import ConfigError
from classifier.tuning.samplers import build_pruner, build_sampler
from classifier.tuning.settings import Confirm, Objective, parse_settings
from tests.tuning.conftest import SPACE

GOOD = {
    "tune": True,
    "n_trials": 5,
    "direction": "maximize",
    "metric": "validation_f1_score",
    "search_spaces": SPACE,
}


def test_defaults_are_those_of_the_documentation() -> None:
    settings = parse_settings(GOOD, "exams/resnet")
    assert settings.study_name == "exams/resnet"
    assert settings.storage is None
    assert settings.objectives == (Objective("validation_f1_score", "maximize"),)
    assert isinstance(build_pruner(None), optuna.pruners.MedianPruner)
    assert isinstance(build_sampler(None, 1, conditional=False), optuna.samplers.TPESampler)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_trial": 3}, "optuna.n_trial: unknown key"),
        ({"n_trials": None}, "optuna.n_trials: is missing"),
        ({"n_trials": 0}, "optuna.n_trials: must be a whole number above 0, got 0"),
        ({"n_trials": 2.5}, "optuna.n_trials: must be a whole number above 0, got 2.5"),
        ({"metric": None}, "optuna.metric: is missing"),
        ({"metric": ["a", "b"]}, "For several, write metrics"),
        ({"direction": "up"}, "optuna.direction: unknown direction, got 'up'"),
        ({"metrics": ["a"]}, "optuna.metrics: stands beside metric"),
        ({"search_spaces": None}, "optuna.search_spaces: must name at least one key"),
        ({"storage": "study.db"}, "optuna.storage: must be a URL, got 'study.db'"),
        ({"sampler": 3}, "optuna.sampler: must be a class, got 3"),
        ({"sampler": "TPESamplr"}, "Did you mean 'TPESampler'?"),
        ({"sampler": "optuna.pruners.NopPruner"}, "optuna.sampler.class_path: is no sampler of Optuna"),
        ({"sampler": {"class_path": "TPESampler", "init_args": {"sed": 1}}}, "Did you mean 'seed'?"),
        ({"pruner": {"class_path": "PercentilePruner"}}, "optuna.pruner: PercentilePruner refuses this"),
        ({"n_jobs": -1}, "optuna.n_jobs: must be a whole number above 0, got -1"),
        ({"devices": [0, 0]}, "optuna.devices: must be a list of GPU numbers, or auto"),
        ({"devices": [0, 1], "n_jobs": 3}, "optuna.n_jobs: is more than the 2 devices"),
        ({"trial_timeout_seconds": "1h"}, "optuna.trial_timeout_seconds: must be a number above 0"),
        ({"confirm": {"top": 1}}, "optuna.confirm: must be a mapping"),
        ({"confirm": {"seeds": 1}}, "optuna.confirm.seeds: must be a whole number of at least 2"),
        ({"launcher": "fork"}, "optuna.launcher: unknown value, got 'fork'"),
    ],
)  # fmt: skip
def test_section_is_refused_with_the_key_when_it_is_wrong(change: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings({**GOOD, **change}, "study")
    assert message in str(caught.value)


def test_section_tells_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings({"tune": True, "n_trials": -1, "direction": "up", "nonsense": 1}, "study")
    keys = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert keys == [
        "optuna.nonsense", "optuna.n_trials", "optuna.metric", "optuna.direction",
        "optuna.search_spaces",
    ]  # fmt: skip


def test_several_objectives_need_a_direction_each() -> None:
    section: dict[str, Any] = {k: v for k, v in GOOD.items() if k not in ("metric", "direction")}
    section["metrics"] = ["validation_accuracy", "num_parameters"]
    with pytest.raises(ConfigError, match="one for each of the 2 metrics"):
        parse_settings({**section, "directions": ["maximize"]}, "study")
    section["directions"] = ["maximize", "minimize"]
    assert [o.direction for o in parse_settings(section, "study").objectives] == [
        "maximize", "minimize",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="prunes for a single objective only"):
        parse_settings({**section, "pruner": "NopPruner"}, "study")


def test_confirm_has_defaults() -> None:
    assert parse_settings({**GOOD, "confirm": {}}, "study").confirm == Confirm(3, 3)


def test_storage_is_filled_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "pass@word")
    url = "postgresql://me:${PW}@host/db"
    settings = parse_settings({**GOOD, "storage": url}, "study")
    assert settings.storage == "postgresql://me:pass%40word@host/db"
    assert settings.storage_shown == url
