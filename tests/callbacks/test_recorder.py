"""What the log says of a training that ended early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

from classifier.callbacks.recorder import EpochLine


class Scripted(L.LightningModule):
    """Learns nothing, and logs what it is told to: a value for each epoch."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("score", self.values[self.current_epoch], on_step=False, on_epoch=True)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(values: list[float], folder: Path, resume: Path | None = None, **given: Any) -> L.Trainer:
    more = {key: given.pop(key) for key in ("min_epochs",) if key in given}
    stopping = EarlyStopping("score", check_on_train_epoch_end=True, **given)
    trainer = L.Trainer(
        max_epochs=len(values), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[stopping, EpochLine()], **more,
    )  # fmt: skip
    trainer.fit(Scripted(values), DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=resume)
    return trainer


def told(caplog: Any) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith("EarlyStopping")]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(("values", "given", "line"), [
    ([1.0, 1.0, 1.0, 1.0], {"patience": 2}, "score has not improved for 2 epochs; best 1.0000"),
    ([0.5, 1.0], {"stopping_threshold": 0.75}, "score has reached stopping_threshold 0.75"),
    ([1.0, 0.5, 0.5], {"stopping_threshold": 0.75}, "score has reached stopping_threshold 0.75"),
    ([1.0, 9.0, 1.0], {"divergence_threshold": 3.0},
     "score is worse than divergence_threshold 3; best 1.0000"),
    ([9.0, 1.0], {"divergence_threshold": 3}, "score is worse than divergence_threshold 3"),
    ([1.0, 0.5, math.nan, 1.0], {}, "score is not finite; best 0.5000"),
    ([math.nan, 1.0], {}, "score is not finite"),
    ([1.0, 2.0, 0.5, 0.5], {"patience": 1, "min_epochs": 3},
     "score has not improved for 1 epochs; best 0.5000"),
    ([3.0, 2.0, 1.0], {"stopping_threshold": 0.0}, None),
])  # fmt: skip
def test_reason_is_told_when_early_stopping_ends_a_training(
    values: list[float], given: Any, line: str | None, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO", "classifier")
    fit(values, tmp_path, **given)
    assert told(caplog) == ([] if line is None else [f"EarlyStopping: {line}"])


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_reason_is_not_told_again_when_a_resumed_training_ends_by_itself(
    tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO", "classifier")
    trainer = fit([2.0, 0.5, 9.0], tmp_path, stopping_threshold=1.0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert len(told(caplog)) == 1
    caplog.clear()
    later = fit([2.0, 0.5, 9.0, 8.0], tmp_path, tmp_path / "last.ckpt", stopping_threshold=0.1)
    assert later.current_epoch == 4 and told(caplog) == []
