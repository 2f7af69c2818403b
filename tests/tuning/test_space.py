"""Search spaces: read strictly, drawn within their bounds, written where they belong."""

from __future__ import annotations

import copy
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.errors import ConfigError
from classifier.tuning.distributions import parse_space
from classifier.tuning.space import SearchSpace

LR = "model.init_args.optimizer_config.lr"
OPTIMIZER = "model.init_args.optimizer_config"


def space_of(**specs: Any) -> SearchSpace:
    return parse_space({f"model.{name}": spec for name, spec in specs.items()})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("uniform", "model.a: must be a mapping, got 'uniform'."),
        ({"low": 0, "high": 1}, "model.a.distribution: is missing."),
        ({"distribution": "unifrom"}, "Did you mean 'uniform'?"),
        ({"distribution": "uniform", "low": 0}, "model.a.high: is missing."),
        ({"distribution": "uniform", "low": 2, "high": 1}, "model.a.low: must be at most high (1)"),
        ({"distribution": "uniform", "low": "1e-5", "high": 1}, "model.a.low: must be a number"),
        ({"distribution": "uniform", "low": True, "high": 1}, "must be a number, got True"),
        ({"distribution": "uniform", "low": 0, "high": float("inf")}, "model.a.high: must be a number"),
        ({"distribution": "loguniform", "low": 0, "high": 1}, "must be above 0 on a logarithmic"),
        ({"distribution": "int", "low": 1.5, "high": 3}, "model.a.low: must be a whole number"),
        ({"distribution": "int", "low": 1, "high": 6, "step": 2}, "Write 5."),
        ({"distribution": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "beside log: true"),
        ({"distribution": "discrete_uniform", "low": 0, "high": 1}, "discrete_uniform needs step"),
        ({"distribution": "uniform", "low": 0, "high": 1, "step": 0.1}, "uniform takes no 'step'"),
        ({"distribution": ["uniform"]}, "model.a.distribution: unknown distribution"),
        ({"distribution": "int", "low": 1, "high": 10**400}, "model.a.high: must be a whole number"),
        ({"distribution": "categorical", "choices": [[float("nan")]]}, "choices.0: must be plain data"),
        ({"distribution": "categorical"}, "model.a.choices: is missing."),
        ({"distribution": "categorical", "choices": []}, "must be a list of values"),
        ({"distribution": "categorical", "choices": [1, 2, 1]}, "choices.2: equals an earlier choice"),
        ({"distribution": "categorical", "choices": {1: 2, "1": 3}}, "choices: names a choice twice"),
        ({"distribution": "categorical", "choices": [1], "when": {"model.b": 1}}, "is not another searched key"),
    ],
)  # fmt: skip
def test_space_is_refused_with_the_key_when_it_is_wrong(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(a=spec)
    assert message in str(caught.value)
    assert str(caught.value).startswith("optuna.search_spaces.model.a")


def test_space_tells_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(a={"distribution": "x"}, b={"distribution": "uniform", "low": 2, "high": 1})
    assert len(str(caught.value).splitlines()) == 2


def test_one_key_in_two_spellings_is_refused() -> None:
    spec = {"distribution": "uniform", "low": 0, "high": 1}
    with pytest.raises(ConfigError, match=r"is the same key as model\.init_args\.a\.1\.p"):
        parse_space({"model.init_args.a.1.p": spec, "model.a.01.p": spec})


def test_own_value_true_is_not_the_choice_one() -> None:
    space = space_of(a={"distribution": "categorical", "choices": {"all": True, "one": 1}})
    assert space.own_values({"model": {"a": 1}}) == ({"model.a": "one"}, [])


def test_keys_that_no_trial_can_set_are_refused() -> None:
    with pytest.raises(ConfigError, match="is no key that a trial can set"):
        parse_space({"optuna.n_trials": {"distribution": "int", "low": 1, "high": 2}})


@given(
    low=st.floats(1e-6, 1e3),
    width=st.floats(0, 1e3),
    seed=st.integers(0, 100),
    log=st.booleans(),
)
def test_draws_lie_in_the_bounds(low: float, width: float, seed: int, log: bool) -> None:
    space = space_of(a={"distribution": "float", "low": low, "high": low + width, "log": log})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = space.suggest(study.ask())["model.a"]
    assert low <= drawn <= low + width
    assert space.parameters["model.a"].holds(drawn)


def test_choices_keep_their_types() -> None:
    choices = [None, True, 2, 0.5, "word"]
    space = space_of(a={"distribution": "categorical", "choices": choices})
    found = {
        repr(space.applied_to({}, {"model.a": choice})["model"]["a"])
        for choice in space.parameters["model.a"].edges()
    }
    assert found == set(map(repr, choices))
    assert not space.parameters["model.a"].holds(1)  # true is not 1


def test_mappings_are_stored_by_name_and_replace_the_old_one_whole() -> None:
    choices = [{"name": "AdamW", "lr": 0.1}, {"name": "SGD", "momentum": 0.9}, [1, 2]]
    space = parse_space({OPTIMIZER: {"distribution": "categorical", "choices": choices}})
    assert space.parameters[OPTIMIZER].edges() == ["AdamW", "SGD", "[1, 2]"]
    before = {"name": "AdamW", "betas": [0.9, 0.99]}
    tree = {"model": {"class_path": "x", "init_args": {"optimizer_config": before}}}
    changed = space.applied_to(copy.deepcopy(tree), {OPTIMIZER: "SGD"})
    assert changed["model"]["init_args"]["optimizer_config"] == choices[1]


def test_mappings_of_one_name_are_told_apart() -> None:
    choices = [{"name": "SGD", "lr": 0.1}, {"name": "SGD", "lr": 0.2}]
    space = space_of(a={"distribution": "categorical", "choices": choices})
    assert space.parameters["model.a"].edges() == [
        '{"lr": 0.1, "name": "SGD"}',
        '{"lr": 0.2, "name": "SGD"}',
    ]


def test_choices_may_be_given_names() -> None:
    choices = {"light": [1], "heavy": [1, 2, 3]}
    space = space_of(a={"distribution": "categorical", "choices": choices})
    assert space.applied_to({}, {"model.a": "heavy"}) == {"model": {"a": [1, 2, 3]}}


def test_inner_keys_are_written_after_outer_ones() -> None:
    space = parse_space(
        {
            LR: {"distribution": "uniform", "low": 0, "high": 1},
            OPTIMIZER: {"distribution": "categorical", "choices": [{"name": "SGD", "lr": 7}]},
        }
    )
    tree = space.applied_to({"model": {"init_args": {}}}, {LR: 0.5, OPTIMIZER: "SGD"})
    assert tree["model"]["init_args"]["optimizer_config"] == {"name": "SGD", "lr": 0.5}


def test_list_items_are_reached_by_their_index() -> None:
    key = "data.init_args.augmentations.train.1.init_args.p"
    space = parse_space({key: {"distribution": "uniform", "low": 0, "high": 1}})
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    tree = {"data": {"init_args": {"augmentations": {"train": [{"class_path": "x"}, flip]}}}}
    changed = space.applied_to(tree, {key: 0.25})
    assert changed["data"]["init_args"]["augmentations"]["train"][1]["init_args"]["p"] == 0.25


def conditional() -> SearchSpace:
    return space_of(
        momentum={
            "distribution": "uniform",
            "low": 0.5,
            "high": 0.9,
            "when": {"model.name": "SGD"},
        },
        name={"distribution": "categorical", "choices": ["AdamW", "SGD"]},
        nesterov={
            "distribution": "categorical",
            "choices": [True, False],
            "when": {"model.name": ["SGD"], "model.deep": True},
        },
        deep={"distribution": "categorical", "choices": [True, False]},
    )


def test_conditional_parameters_exist_only_when_their_condition_holds() -> None:
    space = conditional()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(40):
        params = space.suggest(study.ask())
        assert ("model.momentum" in params) == (params["model.name"] == "SGD")
        assert ("model.nesterov" in params) == (
            params["model.name"] == "SGD" and params["model.deep"]
        )
        seen.add(frozenset(params))
    assert len(seen) == 3


def test_conditions_in_a_circle_are_refused() -> None:
    one = {"distribution": "categorical", "choices": [1, 2]}
    with pytest.raises(ConfigError, match="depend on each other"):
        space_of(a={**one, "when": {"model.b": 1}}, b={**one, "when": {"model.a": 1}})


def test_condition_on_a_value_that_cannot_come_is_refused() -> None:
    one = {"distribution": "categorical", "choices": [1, 2]}
    with pytest.raises(ConfigError, match="is not in that key's search space, got 3"):
        space_of(a=one, b={**one, "when": {"model.a": 3}})


def test_probes_touch_every_edge_and_keep_the_conditions() -> None:
    space = conditional()
    touched: set[tuple[str, str]] = set()
    for params in space.probes():
        if "model.momentum" in params:
            assert params["model.name"] == "SGD"
        touched |= {(key, repr(value)) for key, value in params.items()}
    wanted = {
        (key, repr(edge)) for key, found in space.parameters.items() for edge in found.edges()
    }
    assert touched == wanted


def test_own_values_are_those_that_lie_in_the_space() -> None:
    space = space_of(
        a={"distribution": "uniform", "low": 0, "high": 1},
        b={"distribution": "discrete_uniform", "low": 0.0, "high": 1.0, "step": 0.1},
        c={"distribution": "int", "low": 1, "high": 4},
        d={"distribution": "categorical", "choices": [{"name": "X"}, {"name": "Y"}]},
        e={"distribution": "int", "low": 1, "high": 4},
    )
    own, outside = space.own_values({"model": {"a": 0.5, "b": 0.3, "c": 9, "d": {"name": "Y"}}})
    assert own == {"model.a": 0.5, "model.b": 0.3, "model.d": "Y"}
    assert outside == ["model.c", "model.e"]


def test_own_mapping_is_a_choice_when_only_searched_inner_keys_differ() -> None:
    space = parse_space(
        {
            OPTIMIZER: {"distribution": "categorical", "choices": [{"name": "AdamW", "wd": 0.1}, {"name": "SGD"}]},
            LR: {"distribution": "uniform", "low": 0, "high": 1},
        }
    )  # fmt: skip
    own = {"name": "AdamW", "wd": 0.1, "lr": 0.5}
    tree = {"model": {"init_args": {"optimizer_config": own}}}
    assert space.own_values(tree) == ({OPTIMIZER: "AdamW", LR: 0.5}, [])
