"""--folds and --repeat over a program that takes no time."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.config import read_config
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.repeating.summary import RepeatResult
from classifier.tuning.launching import Child
from tests.repeating import conftest
from tests.repeating.conftest import NUM_IMAGES, FakeLauncher, image

Several = Callable[..., RepeatResult]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_folds_leave_every_image_once_with_its_fold(several: Several) -> None:
    result = several(FakeLauncher(), "--folds", "4")
    folder = Path(result.output_dir)
    rows = rows_of(folder / "predictions.csv")
    names = sorted((image(index) for index in range(NUM_IMAGES)), key=lambda n: n.strip("./"))
    assert [row["path"] for row in rows] == names
    folds = {image(index): str(index % 4) for index in range(NUM_IMAGES)}
    assert {row["path"]: row["fold"] for row in rows} == folds
    assert list(rows[0])[-4:] == ["error", "target", "correct", "fold"]
    assert (result.num_images, result.num_errors) == (NUM_IMAGES, 1)
    # Every seventh of the 22 images that have an answer was mistaken for another.
    assert result.evaluated["validation"]["accuracy"] == pytest.approx(18 / 22)
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"


def test_folds_are_told_with_mean_and_sample_deviation(several: Several, capsys: Any) -> None:
    result = several(FakeLauncher(), "--folds", "3")
    rows = rows_of(Path(result.output_dir, "folds.csv"))
    assert [(row["fold"], row["status"], row["output_dir"]) for row in rows] == [
        (str(fold), "completed", f"folds/{fold}") for fold in range(3)
    ]
    values = [float(row["validation_loss"]) for row in rows]
    found = result.summary["validation_loss"]
    assert found["values"] == values
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert (found["min"], found["max"]) == (min(values), max(values))
    assert result.metrics["validation_loss"] == found["mean"]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == out[-1] == result.output_dir
    assert f"validation_loss: {found['mean']:.4g} +- {found['std']:.2g}" in "\n".join(out)


def test_repeats_count_the_seeds_from_seed_everything(several: Several) -> None:
    launcher = FakeLauncher()
    result = several(launcher, "--repeat", "3", "--seed_everything", "5")
    assert launcher.trained == ["seed_5", "seed_6", "seed_7"]
    rows = rows_of(Path(result.output_dir, "repeats.csv"))
    assert [row["seed"] for row in rows] == ["5", "6", "7"]
    assert len(set(result.summary["validation_loss"]["values"])) == 3
    assert result.predictions is None
    assert not Path(result.output_dir, "predictions.csv").exists()


@pytest.mark.parametrize("flag", ["--folds", "--repeat"])
def test_test_set_is_evaluated_by_every_training(
    flag: str, several: Several, tree: dict[str, Any]
) -> None:
    tree["data"]["init_args"]["dataset_classes"]["test"] = {}
    launcher = FakeLauncher()
    result = several(launcher, flag, "2")
    assert sum(words[0] == "--test" for words in launcher.started) == 2
    assert len(result.summary["test_accuracy"]["values"]) == 2


def test_failed_fold_is_named_and_alone_trained_again(several: Several) -> None:
    launcher = FakeLauncher(fail=["folds/1"])
    with pytest.raises(RunError) as caught:
        several(launcher, "--folds", "3")
    message = str(caught.value)
    assert message.startswith("fold 1 of 3 failed\nfold 1: exit code 1: the roof is on fire\n")
    (folder,) = Path("runs/study").iterdir()
    assert message.endswith(f"python main.py --folds 3 --ckpt_path {folder.as_posix()}")
    assert [row["status"] for row in rows_of(folder / "folds.csv")] == [
        "completed", "failed", "completed",
    ]  # fmt: skip
    assert {row["fold"] for row in rows_of(folder / "predictions.csv")} == {"0", "2"}
    saved = json.loads((folder / "result.json").read_text())
    assert (saved["status"], saved["num_completed"], saved["evaluated"]) == ("failed", 2, {})
    again = FakeLauncher()
    result = several(again, "--folds", "3", "--ckpt_path", folder.as_posix(), alone=True)
    assert again.trained == ["1"]
    assert result.output_dir == folder.as_posix()
    assert result.status == "completed" and result.num_completed == 3
    assert (folder / "folds" / "1-unfinished-1" / "error.txt").is_file()


def precisions(folder: Path) -> dict[str, Any]:
    configs = {file.parent.name: read_config(file) for file in folder.glob("*/*/config.yaml")}
    return {name: config["trainer"]["precision"] for name, config in configs.items()}


@pytest.mark.parametrize("flag", ["--folds", "--repeat"])
def test_all_trainings_have_what_the_first_has_measured_when_it_was_left_open(
    flag: str, several: Several, tree: dict[str, Any]
) -> None:
    tree["trainer"]["precision"] = "auto"
    result = several(FakeLauncher(), flag, "3")
    found = precisions(Path(result.output_dir))
    first = "0" if flag == "--folds" else "seed_42"
    assert len(found) == 3 and set(found.values()) == {f"measured-{first}"}
    assert read_config(Path(result.output_dir, "config.yaml"))["trainer"]["precision"] == "auto"


def test_training_that_is_gone_on_with_has_what_those_before_it_have_measured(
    several: Several, tree: dict[str, Any]
) -> None:
    tree["trainer"]["precision"] = "auto"
    with pytest.raises(RunError):
        several(FakeLauncher(fail=["folds/0"]), "--folds", "3")
    result = several(FakeLauncher(), "--folds", "3", "--ckpt_path", "last")
    found = precisions(Path(result.output_dir))
    assert {name: found[name] for name in "012"} == dict.fromkeys("012", "measured-1")


def test_failed_validation_is_repeated_without_its_training(several: Several) -> None:
    with pytest.raises(RunError, match="fold 0: validation: exit code 1"):
        several(FakeLauncher(fail=["folds/0/validation"]), "--folds", "2")
    again = FakeLauncher()
    result = several(again, "--folds", "2", "--ckpt_path", "last")
    assert again.trained == []
    assert [words[0] for words in again.started] == ["--check", "--val"]
    assert result.status == "completed"


def test_last_starts_fresh_when_all_are_complete(several: Several) -> None:
    several(FakeLauncher(), "--repeat", "2")
    result = several(FakeLauncher(), "--repeat", "2", "--ckpt_path", "last")
    assert len(list(Path("runs/study").iterdir())) == 2
    assert result.num_completed == 2


def test_more_seeds_are_added_to_earlier_ones(several: Several) -> None:
    first = several(FakeLauncher(), "--repeat", "2")
    launcher = FakeLauncher()
    result = several(launcher, "--repeat", "4", "--ckpt_path", first.output_dir)
    assert launcher.trained == ["seed_44", "seed_45"]
    assert result.num_completed == 4
    values = result.summary["validation_loss"]["values"]
    assert values[:2] == first.summary["validation_loss"]["values"]


def test_unfinished_training_is_gone_on_with(several: Several) -> None:
    with pytest.raises(RunError):
        several(FakeLauncher(fail=["folds/1"]), "--folds", "2")
    (folder,) = Path("runs/study").iterdir()
    (folder / "folds/1/checkpoints").mkdir()
    (folder / "folds/1/checkpoints/last.ckpt").write_text("")
    (folder / "folds/1/metrics.csv").write_text("epoch,step,train_loss\n0,3,0.5\n")
    launcher = FakeLauncher()
    several(launcher, "--folds", "2", "--ckpt_path", folder.as_posix())
    (words,) = (words for words in launcher.started if words[0] == "--config")
    checkpoint = (folder / "folds/1-unfinished-1/checkpoints/last.ckpt").as_posix()
    assert words[2:] == ["--ckpt_path", checkpoint, "--only_weights_load", "false"]


class SignalledLauncher(FakeLauncher):
    """As if the user pressed Ctrl-C during the second training."""

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
        if words[0] != "--config" or folder.name == "0":
            return super().start(words, folder, environment)
        self.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        os.kill(os.getpid(), signal.SIGINT)
        return Child(self.process.pid, self.process.poll)


def test_interrupted_folds_leave_no_process_and_what_is_done(several: Several) -> None:
    launcher = SignalledLauncher()
    with pytest.raises(Interrupted):
        several(launcher, "--folds", "3")
    assert launcher.process.returncode == -signal.SIGTERM
    (folder,) = Path("runs/study").iterdir()
    assert [row["status"] for row in rows_of(folder / "folds.csv")] == [
        "completed", "interrupted", "not trained",
    ]  # fmt: skip
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    assert {row["fold"] for row in rows_of(folder / "predictions.csv")} == {"0"}


VAL = "data.init_args.dataset_classes.val"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "3", f"--{VAL}", "{}"], f"{VAL}: has no place beside --folds, which"),
        (["--folds", "3", "--seed_everything", "true"], "seed_everything: must be a number, so"),
        (["--repeat", "3", "--seed_everything", "false"], "seed_everything: must be a number, from"),
        (["--folds", "3", "--ckpt_path", "x"], "ckpt_path: is no folder that --folds has left, got 'x'."),
        (["--folds", "3", "--trainer.fast_dev_run", "true"], "trainer.fast_dev_run: leaves no checkpoint"),
        (["--folds", "3", "--trainer.enable_checkpointing", "false"], "trainer.enable_checkpointing: leaves no"),
    ],
)  # fmt: skip
def test_contradiction_is_told_before_a_folder_is_made(
    words: list[str], message: str, several: Several, workplace: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        several(FakeLauncher(), *words)
    assert str(caught.value).startswith(message)
    assert not (workplace / "runs").exists()


def test_other_configuration_or_number_is_refused_when_going_on(several: Several) -> None:
    folder = several(FakeLauncher(), "--folds", "2").output_dir
    for words, message in (
        (["--folds", "3"], f"--folds: the folder {folder} is one of 2 folds, got 3. Write 2."),
        (["--repeat", "2"], "ckpt_path: is no folder that --repeat has left"),
        (["--folds", "2", "--trainer.max_epochs", "9"], f"trainer: differs from {folder}/config.yaml"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            several(FakeLauncher(), *words, "--ckpt_path", folder)
        assert str(caught.value).startswith(message)


def test_positive_class_that_there_is_not_is_told_before_any_training(
    several: Several, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setitem(conftest.SETTINGS, "positive_class", "dgo")
    launcher = FakeLauncher()
    with pytest.raises(ConfigError, match=r"evaluation\.positive_class: .*Did you mean 'dog'"):
        several(launcher, "--folds", "3")
    assert launcher.trained == [] and not (workplace / "runs").exists()


def test_code_of_the_users_own_is_trusted_in_the_evaluations(
    several: Several, tree: dict[str, Any]
) -> None:
    tree["trainer"]["callbacks"] = [{"class_path": "mine.Callback"}]
    launcher = FakeLauncher()
    several(launcher, "--folds", "2", "--allow_module", "yours")
    (words, _) = (words for words in launcher.started if words[0] == "--val")
    allowed = [words[place + 1] for place, word in enumerate(words) if word == "--allow_module"]
    assert allowed == ["yours", "mine"]
