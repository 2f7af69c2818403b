"""Cross-validation and repetitions with real trainings."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from classifier import FolderImageDataset, ImageDataModule, main
from classifier.entry import console
from classifier.repeating.summary import RepeatResult
from tests.recording import SECRETS
from tests.tuning.conftest import wait_until_gone

ROOT = Path(__file__).parents[2]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.long
def test_folds_judge_every_training_image_by_a_model_that_has_not_seen_it(
    config: dict[str, Any], save: Any, images: Path
) -> None:
    config["evaluation"]["report"] = True
    config["trainer"]["max_epochs"] = 1
    config["trainer"]["logger"] = {
        "class_path": "tests.recording.SecretLogger", "init_args": SECRETS,
    }  # fmt: skip
    result = main(["--config", save(config), "--folds", "2"])
    assert isinstance(result, RepeatResult) and result.status == "completed"
    folder = Path(result.output_dir)
    rows = rows_of(folder / "predictions.csv")
    found = sorted(str(file.relative_to(images / "train")) for file in images.glob("train/*/*.png"))
    assert [row["path"] for row in rows] == found
    for fold in range(2):
        data = ImageDataModule(
            {"train": FolderImageDataset(str(images / "train"))}, folds=2, fold=fold, seed=7
        )
        data.setup("fit")
        members = data.selection.members("val")
        own = {members.source.samples[index].path for index in members.indices}
        assert {row["path"] for row in rows if row["fold"] == str(fold)} == own
        # The same as an ordinary run of that fold: its best checkpoint, on its own images.
        saved = json.loads((folder / "folds" / str(fold) / "result.json").read_text())
        told = result.parts[fold]["metrics"]
        assert saved["best_metrics"].items() <= told.items()
        right = [row["correct"] == "True" for row in rows if row["fold"] == str(fold)]
        assert told["validation_accuracy"] == pytest.approx(sum(right) / len(right))
        assert "test_accuracy" in told
    right = [row["correct"] == "True" for row in rows]
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    assert metrics["stage"] == "validation"
    assert metrics["estimates"]["accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    page = (folder / "report" / "index.html").read_text()
    assert "not seen it" in page
    assert "api_key: removed" in page and "hunter2" not in page


def test_class_with_too_few_images_is_named_before_any_training(
    config: dict[str, Any], save: Any, images: Path, workplace: Path, capfd: Any
) -> None:
    for file in sorted(images.glob("train/green/*"))[3:]:
        file.unlink()
    assert console(["--config", save(config), "--folds", "5"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "data.init_args.folds: too few images of green: 3, got 5. Write at most 3."
    )
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "--folds: needs a whole number, at least 2, got '1'. Write --folds 5."),
        (["--repeat", "x"], "--repeat: needs a whole number, at least 2, got 'x'. Write --repeat 5."),
        (["--folds", "3", "--repeat", "3"], "--repeat: stands beside --folds; a command does one thing."),
        (["--check", "--folds", "3"], "--folds: goes with a training only."),
        (["--print_config", "--repeat", "3"], "--repeat: goes with a training only. Leave it out."),
        (["--label_issues"], "--label_issues: goes with --folds only"),
        (["--folds", "3", "--optuna.tune", "true"], "optuna.tune: is true: a command is a sweep, or several"),
    ],
)  # fmt: skip
def test_words_that_contradict_each_other_are_refused(
    words: list[str], message: str, config: dict[str, Any], save: Any, workplace: Path, capfd: Any
) -> None:
    assert console(["--config", save(config), *words]) == 2
    assert capfd.readouterr().err.startswith(message)
    assert not (workplace / "runs").exists()


@pytest.mark.long
def test_interrupted_folds_are_gone_on_with(
    config: dict[str, Any], save: Any, workplace: Path
) -> None:
    config["trainer"]["max_epochs"] = 30
    words = [sys.executable, str(ROOT / "main.py"), "--config", save(config), "--folds", "2"]
    process = subprocess.Popen(
        words, cwd=workplace, env={**os.environ}, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not list(workplace.glob("runs/colours/*/folds/0/checkpoints/last.ckpt")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    children = {
        int(pid)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for pid in (task / "children").read_text().split()
    }
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    wait_until_gone(*children)
    (folder,) = workplace.glob("runs/colours/*")
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    config_file = folder / "config.yaml"
    config_file.write_text(config_file.read_text().replace("max_epochs: 30", "max_epochs: 3"))
    done = main(["--folds", "2", "--ckpt_path", str(folder.relative_to(workplace))])
    assert done is not None and done.status == "completed"
    first = json.loads((folder / "folds" / "0" / "result.json").read_text())
    if first["checkpoint"] is not None:  # unless it had been interrupted after the last epoch
        assert "0-unfinished-1" in first["checkpoint"]
    assert len(rows_of(folder / "predictions.csv")) == 30
