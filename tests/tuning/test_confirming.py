"""The verdict: an improvement where there is one, none where there is only noise."""

from __future__ import annotations

import numpy as np
import optuna

from classifier.tuning.confirming import CANDIDATE, SEED, judge, plan
from classifier.tuning.settings import Objective, parse_settings
from tests.tuning.test_settings import GOOD

MAXIMIZE = Objective("validation_f1_score", "maximize")


def repeated(
    gains: dict[int, float], noise: float, seeds: int, seed: int
) -> dict[int, dict[int, float]]:
    rng = np.random.default_rng(seed)
    return {
        number: {s: 0.8 + gain + noise * rng.standard_normal() for s in range(seeds)}
        for number, gain in gains.items()
    }


def test_verdict_says_better_when_the_gain_is_real() -> None:
    values = repeated({0: 0.0, 4: 0.1, 7: 0.02}, noise=0.005, seeds=4, seed=1)
    best, lines = judge(MAXIMIZE, values)
    assert best == 4
    assert lines[0].startswith("Trial 4 is better than the default by 0.1")
    assert "+-" in lines[0]


def test_verdict_follows_the_direction() -> None:
    values = repeated({0: 0.0, 4: 0.1}, noise=0.005, seeds=4, seed=1)
    assert judge(Objective("validation_loss", "minimize"), values)[0] == 0


def test_verdict_on_pure_noise_is_no_evidence_in_19_of_20_sweeps() -> None:
    wrong = 0
    for seed in range(400):
        values = repeated({0: 0, 1: 0, 2: 0, 3: 0}, noise=0.05, seeds=3, seed=seed)
        best, lines = judge(MAXIMIZE, values)
        wrong += best != 0
        assert (best == 0) == (lines[0] == "No evidence of an improvement over the default.")
    assert wrong <= 400 * 0.05 * 1.5


def test_verdict_does_not_hang_on_repetitions_that_failed() -> None:
    best, lines = judge(MAXIMIZE, {0: {1: 0.5}, 3: {}})
    assert best == 0
    assert "trial 3: every repetition failed" in lines


def test_plan_repeats_the_default_and_the_best_over_seeds_of_their_own() -> None:
    settings = parse_settings({**GOOD, "confirm": {"top_k": 2, "seeds": 3}}, "study")
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"model.x": 0.9}, user_attrs={"default": True})
    study.optimize(lambda trial: trial.suggest_float("model.x", 0, 1), n_trials=8)
    repeats = plan(settings, study.trials, seed=42)
    assert repeats is not None
    others = sorted(study.trials[1:], key=lambda trial: -(trial.value or 0))[:2]
    assert repeats.candidates == (0, *[t.number for t in others])
    assert {pair[SEED] for pair in repeats.pairs} == {43, 44, 45}
    assert len({(pair[CANDIDATE], pair[SEED]) for pair in repeats.pairs}) == 9
    assert repeats.settings.n_trials == 9


def test_plan_takes_no_seed_that_a_trial_has_seen() -> None:
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"seed_everything": 1}, user_attrs={"default": True})
    study.enqueue_trial({"seed_everything": 3})
    study.optimize(
        lambda trial: trial.suggest_categorical("seed_everything", [1, 2, 3]), n_trials=2
    )
    settings = parse_settings({**GOOD, "confirm": {"top_k": 1, "seeds": 2}}, "study")
    repeats = plan(settings, study.trials, seed=1)
    assert repeats is not None
    assert {pair[SEED] for pair in repeats.pairs} == {2, 4}


def test_plan_is_none_when_there_is_nothing_to_compare() -> None:
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"model.x": 0.9}, user_attrs={"default": True})
    study.optimize(lambda trial: trial.suggest_float("model.x", 0, 1), n_trials=1)
    settings = parse_settings({**GOOD, "confirm": {"top_k": 1, "seeds": 2}}, "study")
    assert plan(settings, study.trials, seed=1) is None
