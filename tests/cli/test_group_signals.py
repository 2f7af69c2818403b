"""Signals to every process of a command, as a terminal, `timeout` and clusters send them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_sweep import processes_in

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.long


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as the first of a group of processes."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER", "PL_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words], start_new_session=True,
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def interrupted(config: Any, save: Any, workplace: Path) -> Any:
    """Train with workers until all processes get a signal; gives the run folder."""

    def run(signum: int, step: int, stage: str, **trainer: Any) -> Path:
        config["data"]["init_args"]["num_workers"] = 2
        sender = {
            "class_path": "tests.cli.interrupting.SendGroupSignal",
            "init_args": {"signum": int(signum), "step": step, "stage": stage},
        }
        content = json.loads(json.dumps(config))
        content["trainer"] |= {"callbacks": [sender], "max_epochs": 3, **trainer}
        done = ended("--config", save(content, "interrupted.yaml"))
        assert done.returncode == 128 + signum, done.stderr
        assert "worker" not in done.stderr.lower().replace("2 workers", "")
        assert not processes_in(workplace)
        config["trainer"]["callbacks"] = []  # not the checkpoint's, which would send it again
        folder = sorted((workplace / "runs/colours").iterdir())[-1]
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["error"]) == ("interrupted", "ended by a signal")
        return folder

    return run


def test_training_is_resumed_when_all_its_processes_were_terminated(
    train: Any, interrupted: Any
) -> None:
    half = interrupted(signal.SIGTERM, 4, "train")
    saved = torch.load(half / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 5  # epochs have three
    resumed = train("--trainer.max_epochs", "3", "--ckpt_path", "last")
    whole = train("--trainer.max_epochs", "3")
    assert resumed.num_steps == whole.num_steps == 9
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    ("signum", "stage", "step"),
    [
        (signal.SIGTERM, "validation", 3),  # its workers are new
        (signal.SIGTERM, "validation", 6),
        (signal.SIGINT, "train", 4),
    ],
)
def test_training_ends_with_a_checkpoint_when_all_its_processes_get_a_signal(
    train: Any, interrupted: Any, signum: int, stage: str, step: int
) -> None:
    assert (interrupted(signum, step, stage) / "checkpoints/last.ckpt").is_file()
    resumed = train("--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert resumed.num_steps == 9


def test_two_ranks_end_with_a_checkpoint_when_all_processes_are_terminated(
    train: Any, interrupted: Any
) -> None:
    half = interrupted(signal.SIGTERM, 3, "train", devices=2, strategy="ddp")
    saved = torch.load(half / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
