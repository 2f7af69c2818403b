"""The profile of an epoch: every second in one part, and the table that it becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import epoch, profiling
from benchmarks.profiling import EpochProfile, part_of
from benchmarks.subject import Subject
from classifier.entry import main
from tests.conftest import write_classes


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ("[_TrainingEpochLoop].train_dataloader_next", profiling.DATA),
        ("[Strategy]SingleDeviceStrategy.batch_to_device", profiling.DEVICE),
        ("[LightningModule]ImageClassifier.on_before_batch_transfer", profiling.DEVICE),
        ("[Strategy]SingleDeviceStrategy.training_step", profiling.FORWARD),
        ("[Strategy]SingleDeviceStrategy.backward", profiling.BACKWARD),
        ("[LightningModule]ImageClassifier.optimizer_step", profiling.OPTIMIZER),
        ("[LightningModule]ImageClassifier.optimizer_zero_grad", profiling.OPTIMIZER),
        ("[Callback]ModelCheckpoint{'monitor': 'validation_loss'}.on_train_epoch_end",
         profiling.CALLBACKS),
        ("save_checkpoint", profiling.CHECKPOINTS),
        ("run_training_batch", profiling.REST),
    ],
)  # fmt: skip
def test_action_belongs_to_a_part(action: str, part: str) -> None:
    assert part_of(action) == part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.profiling.time.perf_counter", lambda: now[0])
    return now


def play(profile: EpochProfile, clock: list[float], script: str) -> None:
    """Words: `(action` begins one, `)` ends the last one, a number is seconds that pass."""
    open_: list[str] = []
    for word in script.split():
        if word.startswith("("):
            open_.append(word[1:])
            profile.start(open_[-1])
        elif word == ")":
            profile.stop(open_.pop())
        else:
            clock[0] += float(word)


EPOCH = """
    (a.on_train_epoch_start 1 ) (b.on_train_epoch_start 1 ) 1
    (run_training_epoch 2 ([_TrainingEpochLoop].train_dataloader_next 10 )
      (run_training_batch 3 ([LightningModule]X.optimizer_step 4
        ([Strategy]X.training_step 20 ) ([Strategy]X.backward 40 ) 5 ) )
      ([LightningModule]X.on_validation_model_eval 1 ) 1 ([Strategy]X.batch_to_device 1 )
      ([Callback]X.on_validation_batch_end 1 ) ([Strategy]X.on_validation_end 1 ) 2 )
    ([Callback]Saver.on_train_epoch_end 6 (save_checkpoint 7 ([Callback]Y.on_save_checkpoint 8 ) ) )
"""


def test_every_second_of_the_last_epoch_is_in_one_part(clock: list[float], tmp_path: Path) -> None:
    profile = EpochProfile(str(tmp_path / "profile.json"))
    play(profile, clock, "(sanity 100 ) 100" + EPOCH.replace("40", "400") + EPOCH)
    play(profile, clock, "([Callback]X.on_train_end 100 ) (b.on_train_end 100 )")
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found == {
        profiling.DATA: 10, profiling.FORWARD: 20, profiling.BACKWARD: 40,
        profiling.OPTIMIZER: 9, profiling.CALLBACKS: 6, profiling.VALIDATION: 5,
        profiling.CHECKPOINTS: 15, profiling.REST: 1 + 1 + 1 + 2 + 3 + 2,
    }  # fmt: skip
    assert len(profile.recorded_durations["run_training_epoch"]) == 2  # Lightning's own goes on


def test_profile_holds_the_parts_of_a_real_training(config: dict[str, Any], save: Any) -> None:
    init_args = {"file": "profile.json"}
    config["trainer"] |= {
        "max_epochs": 7,
        "profiler": {"class_path": "benchmarks.profiling.EpochProfile", "init_args": init_args},
        "callbacks": [{"class_path": "benchmarks.profiling.StopAfter", "init_args": {"epochs": 2}}],
    }
    result = main(["--allow_module", "benchmarks", "--config", save(config)])
    assert result is not None and result.num_epochs == 2
    found = json.loads(Path("profile.json").read_text())
    assert set(found) == set(profiling.ORDER)
    assert all(seconds > 0 for seconds in found.values())


def test_shares_of_the_table_add_up_to_the_epoch() -> None:
    columns = {"32-true, 0 workers": {profiling.DATA: 1.0, profiling.REST: 3.0}}
    lines = epoch.table("a model", columns).splitlines()
    assert lines[0] == "| a model | 32-true, 0 workers |"
    assert "| waiting for data | 1.00 s (25.0%) |" in lines
    assert "| backward | 0 s (0.0%) |" in lines
    assert lines[-1] == "| the epoch | 4.00 s |"
    assert len(lines) == 3 + len(profiling.ORDER)


def test_training_is_announced_as_long_when_the_program_is_to_choose(tmp_path: Path) -> None:
    images = write_classes(tmp_path, 10)
    chosen, fixed = (
        epoch.configuration(Subject(), images, 8, 1, choose, Path("p.json"))
        for choose in (True, False)
    )
    assert chosen["trainer"]["max_epochs"] == 1000 and chosen["trainer"]["precision"] is None
    assert fixed["trainer"]["max_epochs"] == 2 and fixed["trainer"]["precision"] == "32-true"


def test_column_says_how_the_epoch_was_computed() -> None:
    config = {
        "trainer": {"precision": "bf16-mixed"}, "model": {"init_args": {"channels_last": False}},
    }  # fmt: skip
    assert epoch.named(config, 1, True) == "bf16-mixed, contiguous, 1 worker (chosen)"


def test_readme_has_a_place_for_the_profile() -> None:
    from benchmarks.results import marks

    text = epoch.README.read_text()
    begin, end = marks("epoch", epoch.SCRIPT)
    assert (text.count(begin), text.count(end)) == (1, 1)
    assert text.index(begin) < text.index(end)


@pytest.mark.long
def test_script_prints_the_profile_of_every_number_of_workers(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", 12)
    words = [sys.executable, epoch.__file__, "--images", str(tmp_path / "images"), "--batch", "8"]
    words += ["--model", "timm/test_resnet", "--size", "32", "--workers", "0", "1"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("0 workers") == 2 and ended.stdout.count("1 worker") == 2
