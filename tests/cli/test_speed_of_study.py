"""The trainings of a study are all computed in what its first one has decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from classifier.commands import speed_probe
from classifier.commands.speed_kept import OF_STUDY, decided_by_first
from classifier.commands.speed_probe import Choice, Open
from classifier.entry import main
from classifier.model.step_times import BF16, FLOAT32, Setting
from classifier.runs import STUDY_DIR_VARIABLE
from tests.cli.test_speed import chosen

Save = Callable[[dict[str, Any]], str]
ALL = Open(precision=True, channels_last=True, num_workers=True)


@pytest.fixture
def study(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = workplace / "runs/search"
    folder.mkdir(parents=True)
    monkeypatch.setenv(STUDY_DIR_VARIABLE, str(folder))
    return folder


@pytest.fixture
def train_with(left_open: Any, save: Save) -> Callable[[int], tuple[Any, Any, Any]]:
    def train(batch_size: int) -> tuple[Any, Any, Any]:
        left_open["data"]["init_args"]["batch_size"] = batch_size
        return chosen(main(["--config", save(left_open)]))

    return train


def test_later_trials_take_what_the_first_has_measured_when_they_are_too_short_themselves(
    study: Path,
    train_with: Any,
    measured: list[Setting],
    monkeypatch: Any,
    capfd: Any,
) -> None:
    assert train_with(4) == (BF16, False, 1)
    measured.clear()
    monkeypatch.setattr(speed_probe, "_MIN_IMAGES", 1_000_000)
    assert train_with(8) == (BF16, False, 2)  # workers are guessed, as nothing was measured
    assert measured == []
    told = "speed: bf16-mixed + contiguous, as in the first training of search with this model"
    assert told in capfd.readouterr().err


def test_later_trials_measure_workers_alone_when_they_are_open(
    study: Path,
    train_with: Any,
    measured: list[Setting],
    capfd: Any,
) -> None:
    train_with(4)
    measured.clear()
    capfd.readouterr()
    assert train_with(8) == (BF16, False, 1)
    assert set(measured) == {Setting(BF16, False)}
    assert "speed: bf16-mixed + contiguous; 1 worker (measured in" in capfd.readouterr().err


def test_later_trials_stay_as_usual_when_the_first_was_too_short_to_measure(
    study: Path,
    train_with: Any,
    measured: list[Setting],
    monkeypatch: Any,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(speed_probe, "_MIN_IMAGES", 1_000_000)
        assert train_with(4) == (FLOAT32, True, 2)
    assert train_with(8)[:2] == (FLOAT32, True)
    assert {setting.precision for setting in measured} == {FLOAT32}


def test_first_decides_once_for_each_model_and_each_set_of_open_keys(study: Path) -> None:
    fast, usual = Choice(BF16, False, 1), Choice(FLOAT32, True, 2)
    assert decided_by_first(study, "a", ALL, lambda: fast) == (fast, True)
    assert decided_by_first(study, "a", ALL, lambda: usual) == (fast, False)
    assert decided_by_first(study, "b", ALL, lambda: usual) == (usual, True)
    given = Open(precision=False, channels_last=True, num_workers=True)
    assert decided_by_first(study, "a", given, lambda: usual) == (usual, True)
    kept = json.loads((study / OF_STUDY).read_text())
    assert list(kept) == ["a: precision, channels_last", "b: precision, channels_last",
                          "a: channels_last"]  # fmt: skip
