"""The best and the last checkpoint of an epoch: one file where they are the same, else two."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from classifier.checkpoint_writing import WholeFileIO
from classifier.entry import main
from classifier.errors import RunError
from classifier.files import link_or_copy

BEST, LAST = Path("best.ckpt"), Path("last.ckpt")


@pytest.fixture
def training() -> dict[str, Any]:
    """What a checkpoint of a training holds."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "global_step": 1, "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "random_state": {"torch": torch.get_rng_state()},
    }  # fmt: skip


def again(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The same, as a second call of the trainer gives it: small things are new objects."""
    return {
        **checkpoint,
        "state_dict": {name: value.detach() for name, value in checkpoint["state_dict"].items()},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "random_state": {"torch": checkpoint["random_state"]["torch"].clone()},
    }


def test_second_checkpoint_is_another_name_of_the_first_when_it_is_the_same(
    workplace: Path, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = Mock(wraps=torch.save)
    monkeypatch.setattr(torch, "save", saves)
    files = WholeFileIO()
    for path in (BEST, LAST):
        files.save_checkpoint(again(training), path)
    files_written = [call for call in saves.call_args_list if isinstance(call.args[1], Path)]
    assert len(files_written) == 1 and BEST.samefile(LAST)
    training["global_step"] = 2
    files.save_checkpoint(training, LAST)
    assert not BEST.samefile(LAST)
    assert torch.load(BEST)["global_step"] == 1 and torch.load(LAST)["global_step"] == 2


def step(checkpoint: dict[str, Any]) -> None:
    checkpoint["global_step"] += 1


def weights(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["weight"].add_(1)


def other_weights(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["weight"] = checkpoint["state_dict"]["weight"] * 2


def moments(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].mul_(2)


def rate(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 0.5


def score(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"]["ModelCheckpoint"]["best_model_score"] = torch.tensor(0.6)


def another(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"]["EarlyStopping"] = {"wait_count": 1}


def fewer(checkpoint: dict[str, Any]) -> None:
    del checkpoint["optimizer_states"]


def random_numbers(checkpoint: dict[str, Any]) -> None:
    checkpoint["random_state"]["torch"][0] += 1


@pytest.mark.parametrize(
    "change",
    [step, weights, other_weights, moments, rate, score, another, fewer, random_numbers],
)
def test_second_checkpoint_is_written_when_anything_is_different(
    change: Callable[[dict[str, Any]], None], workplace: Path, training: dict[str, Any]
) -> None:
    files = WholeFileIO()
    files.save_checkpoint(training, BEST)
    later = again(training)
    change(later)
    files.save_checkpoint(later, LAST)
    assert not BEST.samefile(LAST)


def test_second_checkpoint_is_written_when_a_value_may_have_changed_in_place(
    workplace: Path, training: dict[str, Any]
) -> None:
    files = WholeFileIO()
    seen = {1}
    training["callbacks"]["Own"] = {"seen": seen}
    files.save_checkpoint(training, BEST)
    seen.add(2)
    files.save_checkpoint(training, LAST)
    assert torch.load(BEST)["callbacks"]["Own"] == {"seen": {1}}
    assert torch.load(LAST)["callbacks"]["Own"] == {"seen": {1, 2}}


@pytest.mark.parametrize("state", [np.arange(4), lambda: None])
def test_checkpoint_is_refused_when_it_could_not_be_read_again(
    state: Any, workplace: Path, training: dict[str, Any]
) -> None:
    training["callbacks"]["Own"] = {"counts": state}
    with pytest.raises(RunError, match=r"what Own gives could not be read again.*state_dict"):
        WholeFileIO().save_checkpoint(training, LAST)
    assert not LAST.exists()


@pytest.mark.parametrize("gone", [True, False])
def test_second_checkpoint_is_written_when_the_first_file_is_no_longer_that_one(
    gone: bool, workplace: Path, training: dict[str, Any]
) -> None:
    files = WholeFileIO()
    files.save_checkpoint(training, BEST)
    BEST.unlink()
    if not gone:
        BEST.write_bytes(b"calibrated")
    files.save_checkpoint(training, LAST)
    assert torch.load(LAST)["global_step"] == 1


def test_checkpoint_is_copied_when_the_file_system_has_no_second_names(
    workplace: Path, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "link", refuse)
    files = WholeFileIO()
    files.save_checkpoint(training, BEST)
    files.save_checkpoint(training, LAST)
    assert not BEST.samefile(LAST) and BEST.read_bytes() == LAST.read_bytes()


def test_epoch_that_is_the_best_is_written_once_and_holds_all_that_a_resume_needs(
    config: dict[str, Any], save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    links = Mock(wraps=link_or_copy)
    monkeypatch.setattr("classifier.checkpoint_writing.link_or_copy", links)
    saver = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "train_loss", "mode": "min"}}
    config["trainer"] |= {"callbacks": [saver], "max_epochs": 3}
    result = main(["--config", save(config)])
    assert result is not None
    checkpoints = Path(result.output_dir) / "checkpoints"
    best, last = (torch.load(checkpoints / name) for name in (BEST, LAST))
    if best["epoch"] == 2:
        assert (checkpoints / BEST).samefile(checkpoints / LAST)
    assert 1 <= links.call_count <= 3  # the loss of a training falls, mostly
    state = best["callbacks"]["BestMetrics"]
    assert state["metrics"] == result.best_metrics and "train_loss" in state["metrics"]
    assert state["score"] == pytest.approx(result.best_score)
    assert set(best) == set(last)
