"""The study's rules, without processes: who runs what, what runs again, what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from classifier.tuning.settings import parse_settings
from classifier.tuning.storage import Storage
from classifier.tuning.study import SweepStudy
from tests.tuning.test_settings import GOOD

OWN = {"model.x": 0.9}


@pytest.fixture
def reopen(workplace: Path) -> Iterator[Callable[..., SweepStudy]]:
    """Open the study as the next driver does, when the one before has died."""
    opened: list[Storage] = []

    def open_it(config: Any = None, **section: Any) -> SweepStudy:
        for storage in opened:
            storage.close()
        settings = parse_settings({**GOOD, **section}, "study")
        opened.append(Storage("sqlite:///study.db", "study", workplace))
        first = [(OWN, {"default": True})]
        return SweepStudy(settings, opened[-1], config or {"seed_everything": 1}, first)

    yield open_it
    for storage in opened:
        storage.close()


def claimed(study: SweepStudy) -> Any:
    claim = study.claim()
    assert claim is not None
    return claim


def test_default_keeps_its_values_when_its_driver_died_before_they_were_drawn(
    reopen: Callable[..., SweepStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = reopen()
    with monkeypatch.context() as patch:
        patch.setattr(SweepStudy, "_draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study.claim()
    again = claimed(reopen())
    assert again.params == OWN
    assert again.retry_of == (0,)
    assert again.trial.user_attrs["default"]


def test_interrupted_sweep_draws_what_a_whole_one_draws(
    reopen: Callable[..., SweepStudy], workplace: Path
) -> None:
    study = reopen(n_trials=6, sampler="RandomSampler")
    whole = []
    for _ in range(6):
        claim = claimed(study)
        whole.append(claim.params["model.x"])
        study.complete(claim.trial, (0.5,))
    (workplace / "study.db").unlink()
    drawn = []
    for number in range(6):
        study = reopen(n_trials=6, sampler="RandomSampler")
        claim = claimed(study)
        if number in (0, 2):  # its driver dies, and the next one runs the trial again
            study = reopen(n_trials=6, sampler="RandomSampler")
            claim = claimed(study)
        drawn.append(claim.params["model.x"])
        study.complete(claim.trial, (0.5,))
    assert drawn == whole


def test_trial_that_never_gets_further_is_given_up(reopen: Callable[..., SweepStudy]) -> None:
    for _ in range(10):
        assert claimed(reopen(n_trials=2)).params == OWN
    assert claimed(reopen(n_trials=2)).params != OWN


def test_trial_that_gets_further_each_time_is_never_given_up(
    reopen: Callable[..., SweepStudy],
) -> None:
    for epochs in range(1, 15):
        study = reopen(n_trials=2, pruner="NopPruner")
        claim = claimed(study)
        assert claim.params == OWN
        for epoch in range(epochs):
            study.report(claim.trial, epoch, 0.5)


def test_lost_trial_runs_again_in_the_same_sweep(reopen: Callable[..., SweepStudy]) -> None:
    study = reopen(n_trials=2)
    study.lose(claimed(study).trial)
    again = claimed(study)
    assert (again.params, again.retry_of) == (OWN, (0,))
    study.complete(again.trial, (0.5,))
    study.complete(claimed(study).trial, (0.5,))
    assert study.claim() is None
    assert [t.state for t in study.counted()] == [TrialState.COMPLETE] * 2


def test_study_is_unchanged_when_its_settings_only_went_through_json(
    reopen: Callable[..., SweepStudy],
) -> None:
    spaces = {
        "model.x": {"distribution": "uniform", "low": 0, "high": 1},
        "model.weights": {"distribution": "categorical", "choices": [{0: 1.0, 1: 2.0}, [1, (2,)]]},
    }
    config = {"seed_everything": 1, "model": {"sizes": (1, 2)}}
    reopen(config, search_spaces=spaces)
    reopen(config, search_spaces=spaces)
