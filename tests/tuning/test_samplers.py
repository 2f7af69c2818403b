"""Samplers and pruners by class_path, compared with the search space, and each trial's seed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from classifier.errors import ConfigError
from classifier.tuning.samplers import build_pruner, build_sampler, seed_for
from classifier.tuning.settings import parse_settings
from tests.tuning.test_settings import GOOD


def test_any_sampler_and_pruner_of_optuna_can_be_named() -> None:
    nested = {
        "class_path": "optuna.pruners.PatientPruner",
        "init_args": {"wrapped_pruner": {"class_path": "HyperbandPruner"}, "patience": 2},
    }
    pruner = build_pruner(nested)
    assert isinstance(pruner, optuna.pruners.PatientPruner)
    spec = {"class_path": "TPESampler", "init_args": {"n_startup_trials": 3}}
    assert isinstance(build_sampler(spec, 5, conditional=False), optuna.samplers.TPESampler)
    settings = parse_settings({**GOOD, "sampler": spec, "pruner": nested}, "study")
    assert settings.sampler == spec


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"model.x": [0.5], "model.z": [1]}, "search_space.model.z: is missing in search_spaces"),
        ({}, "search_space.model.x: is missing in the grid"),
        (
            {"model.x": [0.5, 1.5]},
            "search_space.model.x: lies outside of its search space, got 1.5",
        ),
    ],
)
def test_grid_is_compared_with_the_search_space(points: Any, message: str) -> None:
    spec = {"class_path": "GridSampler", "init_args": {"search_space": points}}
    with pytest.raises(ConfigError) as caught:
        parse_settings({**GOOD, "sampler": spec}, "study")
    assert message in str(caught.value)


def test_every_trial_draws_with_a_seed_of_its_own() -> None:
    assert seed_for(None, 42, 7) == 49
    given = {"class_path": "RandomSampler", "init_args": {"seed": 3}}
    assert seed_for(given, 42, 7) == 10
    # The points of a quasi-random sequence belong together.
    assert seed_for({"class_path": "QMCSampler"}, 42, 7) == 42
