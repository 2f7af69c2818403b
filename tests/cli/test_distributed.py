"""Two processes that train together, through the real command line, against one that trains alone.

The model has neither BatchNorm nor dropout, so that both must come to the same weights.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classifier.entry import main
from tests.conftest import configuration, write_classes

ROOT = Path(__file__).parents[2]
CALLBACKS = "tests.cli.interrupting"
TWO = {"devices": 2, "strategy": "ddp"}
pytestmark = pytest.mark.long


@dataclass
class Ended:
    code: int
    out: list[str]
    err: str
    seconds: float

    @property
    def folder(self) -> Path:
        return Path(self.out[0])

    @property
    def result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return content


def command(*words: str) -> Ended:
    """Run the program as a user does, and make sure that nothing of it is left."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER", "PL_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert not processes_here()
    return Ended(done.returncode, done.stdout.splitlines(), done.stderr, time.monotonic() - started)


def processes_here() -> list[str]:
    """Commands of this program that still run in the working folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "cwd") == os.getcwd():
                words = (folder / "cmdline").read_bytes().split(b"\0")
                found += [folder.name for word in words if word.endswith(b"main.py")]
        except OSError:
            continue
    return found


@pytest.fixture
def write(workplace: Path) -> Callable[..., list[str]]:
    """A configuration of a training set of a given size, as the words of a command."""

    def configure(
        per_class: int = 10, val: int = 0, *callbacks: dict[str, Any], **trainer: Any
    ) -> list[str]:
        root = workplace / "images"
        write_classes(root / "train", per_class)
        write_classes(root / "test", 3, seed=5000)
        content = configuration(root, max_epochs=2)
        content["model"]["init_args"]["model_name"] = "timm/test_vit"
        # Adam would make steps of full size out of gradients that are zero but for rounding.
        sgd = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
        content["model"]["init_args"]["optimizer_config"] = sgd
        data = content["data"]["init_args"]
        data["batch_size"] = 4 if "devices" in trainer else 8  # 24 images: three steps
        if val:
            folder = write_classes(root / "val", 1, ["blue", "green", "red"][:val], seed=800)
            data["dataset_classes"]["val"] = {
                "class_path": "FolderImageDataset",
                "init_args": {"root": str(folder)},
            }
        content["trainer"] |= {"log_every_n_steps": 1, **trainer}
        content["trainer"]["callbacks"] = list(callbacks)  # not those of a resumed checkpoint
        (workplace / "cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return ["--config", "cfg.yaml"]

    return configure


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{CALLBACKS}.{name}", "init_args": arguments}


def state(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return found


def epoch_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["validation_loss"]]


def test_two_processes_come_to_what_one_comes_to_and_write_one_folder(
    write: Any, workplace: Path
) -> None:
    words = write(8, 3)  # three images for two processes: one has two, one has one
    alone = main(words)
    assert alone is not None
    ended = command(*write(8, 3, **TWO))
    assert ended.code == 0, ended.err
    assert ended.result["metrics"] == pytest.approx(alone.metrics, abs=1e-5)
    assert ended.result["num_steps"] == alone.num_steps == 6
    before, after = (
        state(Path(folder, "checkpoints/last.ckpt")) for folder in (alone.output_dir, ended.folder)
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-4, msg=name)
    for one, two in zip(epoch_rows(Path(alone.output_dir)), epoch_rows(ended.folder), strict=True):
        for name in set(one) - {"train_loss_step"}:
            assert float(two[name]) == pytest.approx(float(one[name]), abs=1e-5), name
    # One folder, named first and last; each line once.
    assert len(list((workplace / "runs/colours").iterdir())) == 2
    assert ended.out[0] == ended.out[-1]
    names = [line.partition(":")[0] for line in ended.out[1:-1]]
    assert names == ["after the last epoch", *alone.metrics, "best validation_f1_score"]
    lines = ended.err.splitlines()
    for part in ("2 x cpu", "froze", "images (train", "epoch 1/2", "epoch 2/2"):
        assert len([line for line in lines if part in line]) == 1, part
    assert sorted(item.name for item in ended.folder.iterdir()) == [
        "checkpoints", "config.yaml", "environment.json", "log.txt", "metrics.csv", "result.json",
    ]  # fmt: skip


def test_checkpoint_of_two_processes_serves_one_and_two(write: Any) -> None:
    first = command(*write(**TWO))
    assert first.code == 0, first.err
    checkpoint = str(first.folder / "checkpoints/last.ckpt")
    validated = main(["--val", "--ckpt_path", checkpoint])
    assert validated is not None
    logged = first.result["metrics"]
    for name, value in validated.metrics.items():
        assert value == pytest.approx(logged[name], abs=1e-5), name
    tested = main(["--test", "--ckpt_path", checkpoint])
    assert tested is not None and tested.num_images == 9
    predicted = main(["--predict", "images/test/red", "--ckpt_path", checkpoint])
    assert predicted is not None and predicted.num_images == 3
    more = ["--ckpt_path", checkpoint, "--trainer.max_epochs", "3"]
    resumed = command(*more)
    assert resumed.code == 0, resumed.err
    assert "2 x cpu" in resumed.err
    assert resumed.result["num_epochs"] == 3
    alone = main([*more, "--trainer.devices", "1", "--trainer.strategy", "auto"])
    assert alone is not None and alone.num_epochs == 3


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_to_one_process_stops_both_and_the_run_is_resumed(
    write: Any, signum: int, code: int
) -> None:
    whole = command(*write(**TWO))
    rank = int(signum == signal.SIGTERM)
    sender = callback("SendSignal", signum=int(signum), step=1, rank=rank)
    ended = command(*write(10, 0, sender, **TWO))
    assert ended.code == code, ended.err
    assert ended.result["status"] == "interrupted"
    assert ended.out[0] == ended.out[-1]
    resumed = command(*write(**TWO), "--ckpt_path", "last")
    assert resumed.code == 0, resumed.err
    assert resumed.result["metrics"] == pytest.approx(whole.result["metrics"], abs=1e-6)
    assert resumed.result["num_steps"] == whole.result["num_steps"]


@pytest.mark.parametrize("rank", [0, 1])
def test_loss_that_is_no_number_in_one_process_stops_both(write: Any, rank: int) -> None:
    ended = command(*write(10, 0, callback("BreakLoss", rank=rank), **TWO))
    assert ended.code == 1
    assert ended.err.count("the loss became nan at step 1 (epoch 0, batch 1 with ") == 1
    assert "Traceback" not in ended.err
    assert ended.result["status"] == "failed"
    assert "the loss became nan" in ended.result["error"]


@pytest.mark.parametrize("rank", [0, 1])
def test_error_in_one_process_ends_both_with_its_reason(write: Any, rank: int) -> None:
    breaker = callback("BreakLoss", rank=rank, error="out of cheese")
    ended = command(*write(10, 0, breaker, **TWO))
    assert ended.code == 1
    assert "out of cheese" in ended.err
    assert "out of cheese" in ended.result["error"]
    assert ended.result["status"] == "failed"
    assert not list(ended.folder.glob(".rank*"))


def test_process_that_is_killed_ends_the_training(write: Any) -> None:
    killer = callback("SendSignal", signum=int(signal.SIGKILL), step=1, rank=1)
    ended = command(*write(10, 0, killer, **TWO))
    assert ended.code == 1
    assert "another process of the training was killed" in ended.err
    assert ended.result["status"] == "failed"


def test_fewer_validation_images_than_processes_and_callbacks_that_watch_them(write: Any) -> None:
    watching = [
        {"class_path": "EarlyStopping", "init_args": {"monitor": "validation_loss", "patience": 1}},
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": "validation_loss"}},
    ]
    plateau = {"name": "plateau", "monitor": "validation_loss", "patience": 0}
    balanced = ["--data.sampler", "balanced"]
    words = ["--model.scheduler_config", json.dumps(plateau), "--trainer.max_epochs", "6"]
    words += ["--model.optimizer_config.lr", "0.05"]
    ended = command(*write(8, 1, *watching, **TWO), *words, *balanced)
    assert ended.code == 0, ended.err
    alone = main([*write(8, 1, *watching), *words, *balanced])
    assert alone is not None
    assert ended.result["num_epochs"] == alone.num_epochs
    assert ended.result["metrics"] == pytest.approx(alone.metrics, abs=1e-3)


def test_seed_that_is_drawn_is_the_same_in_both(write: Any) -> None:
    ended = command(*write(**TWO), "--seed_everything", "true")
    assert ended.code == 0, ended.err
    again = main(["--config", str(ended.folder / "config.yaml"), "--trainer.devices", "1",
                  "--trainer.strategy", "auto", "--data.batch_size", "8"])  # fmt: skip
    assert again is not None and again.seed == ended.result["seed"]
    assert ended.result["metrics"] == pytest.approx(again.metrics, abs=1e-4)
