"""What goes wrong with a measurement, or with what is kept of it, ends no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from classifier.commands import speed_kept
from classifier.commands.speed_kept import OF_STUDY, decided_by_first
from classifier.commands.speed_probe import Choice, Open
from classifier.entry import main
from classifier.model.step_times import BF16, FLOAT32, Setting, StepTimes
from tests.cli.test_speed import chosen

Save = Callable[[dict[str, Any]], str]


@pytest.fixture
def fails_in(monkeypatch: pytest.MonkeyPatch, measured: list[Setting]) -> Callable[[str], None]:
    """Lets every step in a precision fail, as where a kernel is missing."""
    seconds = StepTimes.seconds

    def fail(precision: str) -> None:
        def missing(self: StepTimes, setting: Setting, number: int) -> float:
            if setting.precision == precision:
                raise RuntimeError('"my_kernel" not implemented')
            return seconds(self, setting, number)

        monkeypatch.setattr(StepTimes, "seconds", missing)

    return fail


def test_precision_in_which_the_model_fails_is_not_chosen(
    left_open: Any, save: Save, fails_in: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fails_in(BF16)
    assert chosen(main(["--config", save(left_open)]))[0] == FLOAT32
    told = capfd.readouterr().err
    assert 'speed: bf16-mixed + channels_last is not possible: "my_kernel" not implemented' in told
    assert "speed: 32-true + contiguous: 1.2 x 32-true + channels_last; 1 worker" in told


def test_training_begins_as_usual_when_nothing_can_be_measured(
    left_open: Any, save: Save, fails_in: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fails_in(FLOAT32)
    assert chosen(main(["--config", save(left_open)]))[:2] == (FLOAT32, True)
    told = capfd.readouterr().err
    assert 'speed: nothing could be measured: "my_kernel" not implemented' in told
    assert not list(speed_kept.FOLDER.iterdir())


GOOD = {
    "precision": BF16, "channels_last": False, "num_workers": 1, "told": "", "seconds": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "", '{"precision":', "[]", "3", json.dumps({**GOOD, "of a later version": 1}),
        json.dumps({**GOOD, "precision": "evil"}), json.dumps({**GOOD, "num_workers": -3}),
        json.dumps({**GOOD, "num_workers": True}), json.dumps({**GOOD, "channels_last": "no"}),
    ],
)  # fmt: skip
def test_choice_that_is_damaged_or_foreign_is_measured_again(content: str, workplace: Path) -> None:
    file = speed_kept.FOLDER / "a.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert speed_kept.recalled(file) is None
    found = Choice(FLOAT32, True, 1, "told", 2.0)
    assert speed_kept.measured_once(file, lambda: found) == found
    recalled = speed_kept.recalled(file)
    assert recalled is not None and recalled.precision == FLOAT32


def test_every_training_measures_when_nothing_can_be_kept(workplace: Path) -> None:
    speed_kept.FOLDER.parent.mkdir()
    speed_kept.FOLDER.write_text("a file in the place of the folder")
    found = Choice(FLOAT32, True, 1, "told", 2.0)
    file = speed_kept.FOLDER / "a.json"
    assert speed_kept.recalled(file) is None
    assert speed_kept.measured_once(file, lambda: found) == found


def test_lock_that_is_never_free_is_waited_for_a_while_only(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_kept, "_PATIENCE", 0.1)
    file = speed_kept.FOLDER / "a.json"
    file.parent.mkdir(parents=True)
    found = Choice(FLOAT32, True, 1, "told", 2.0)
    with FileLock(f"{file}.lock"):
        assert speed_kept.measured_once(file, lambda: found) == found
    assert not file.exists()


def test_study_decides_again_when_its_file_is_damaged(workplace: Path) -> None:
    everything = Open(precision=True, channels_last=True, num_workers=True)
    found = Choice(BF16, False, 1)
    (workplace / OF_STUDY).write_text("{")
    assert decided_by_first(workplace, "a", everything, lambda: found) == (found, True)
    assert decided_by_first(workplace, "a", everything, lambda: found) == (found, False)


@pytest.mark.parametrize("precision", [FLOAT32, "64-true", "bf16-true"])
def test_choice_beside_a_precision_that_the_user_wrote_is_kept(
    precision: str, workplace: Path
) -> None:
    found = Choice(precision, False, 1, "told", 2.0)
    speed_kept.measured_once(speed_kept.FOLDER / "a.json", lambda: found)
    recalled = speed_kept.recalled(speed_kept.FOLDER / "a.json")
    assert recalled is not None and recalled.precision == precision
