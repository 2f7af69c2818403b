"""environment.json: what a result was made with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import main
from classifier.commands.receipt import _driver, git_facts
from tests.conftest import write_image


def receipt_of(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(folder, "environment.json").read_text())
    return content


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_receipt_tells_what_a_training_really_used(train: Any) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = receipt_of(train("--trainer.precision", "bf16-mixed").output_dir)
    assert before <= datetime.fromisoformat(told["started"]) <= datetime.now(UTC)
    assert told["started"].endswith("+00:00")
    assert told["command"] == [
        "main.py",
        "--config",
        "cfg.yaml",
        "--trainer.precision",
        "bf16-mixed",
    ]
    assert (told["seed"], told["precision"], told["accelerator"]) == (7, "bf16-mixed", "cpu")
    assert (told["num_devices"], told["num_threads"]) == (1, torch.get_num_threads())
    assert told["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert told["cpu"]["num_cores"] == os.cpu_count() and told["cpu"]["name"]
    assert 0.1 < told["ram_gib"] < 100_000
    assert told["deterministic"]["algorithms"] is False
    assert {name: facts["num_images"] for name, facts in told["data"].items()} == {
        "train": 24, "val": 6,
    }  # fmt: skip


def test_receipt_names_no_machine_and_no_user(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path.cwd())
    monkeypatch.setenv("SOME_TOKEN", "s3cret-variable")
    folder = train("--custom_folder_name", str(Path.cwd() / "x"), "--trainer.max_epochs", "1")
    text = Path(folder.output_dir, "environment.json").read_text()
    for private in (socket.gethostname(), str(Path.cwd()), "s3cret"):
        assert private not in text


def test_fingerprint_is_that_of_the_data_when_it_is_copied(
    config: dict[str, Any], save: Any, images: Path
) -> None:
    def fingerprints(root: Path) -> dict[str, Any]:
        config["data"]["init_args"]["dataset_classes"]["train"]["init_args"]["root"] = str(root)
        result = main(["--config", save(config), "--trainer.max_epochs", "1"])
        assert result is not None
        found: dict[str, Any] = receipt_of(result.output_dir)["data"]
        return {name: facts["fingerprint"] for name, facts in found.items()}

    first = fingerprints(images / "train")
    copied = shutil.copytree(images / "train", images / "elsewhere")
    os.utime(copied / "red" / "00.png", (1, 1))
    assert fingerprints(copied) == first
    write_image(copied / "red" / "00.png", (200, 50, 40), 7, size=40)
    changed = fingerprints(copied)
    assert {name for name in first if changed[name] != first[name]} in ({"train"}, {"val"})
    shutil.copytree(copied, images / "third")
    (images / "third" / "red").rename(images / "third" / "rot")
    assert fingerprints(images / "third") != changed


def test_receipt_of_a_test_has_the_data_that_was_tested_on(trained: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.parents[2])
        result = main(["--test", "--ckpt_path", str(trained)])
    assert result is not None
    told = receipt_of(trained.parents[2] / result.output_dir)
    assert {name: facts["num_images"] for name, facts in told["data"].items()} == {"test": 12}


def test_commit_is_that_of_the_code_and_of_the_working_directory(workplace: Path) -> None:
    code = git_facts()["code"]
    assert code is None or len(code["commit"]) == 40
    assert "working_directory" not in git_facts()
    git(workplace, "init", "-q")
    git(workplace, "remote", "add", "origin", "https://s3cret@example.org/x.git")
    assert git_facts()["working_directory"] == {"commit": None, "dirty": False}
    (workplace / "cfg.yaml").write_text("a: 1\n")
    git(workplace, "add", "cfg.yaml")
    git(workplace, "commit", "-qm", "x")
    head = git(workplace, "rev-parse", "HEAD")
    (workplace / "untracked").mkdir()
    assert git_facts()["working_directory"] == {"commit": head, "dirty": False}
    (workplace / "cfg.yaml").write_text("a: 2\n")
    assert git_facts()["working_directory"] == {"commit": head, "dirty": True}


def test_receipt_is_written_when_there_is_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_facts() == {"code": None}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build", "570.124.06"),
        ("something else", None),
    ],
)  # fmt: skip
def test_driver_is_read_from_the_kernel(tmp_path: Path, line: str, found: str | None) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version: 12.3.0\n")
    assert _driver(tmp_path / "version") == found
