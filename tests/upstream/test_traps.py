"""What the installed libraries do that this program works around. When one of these fails, the
workaround that it names can go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def test_pyyaml_reads_1e5_as_text() -> None:
    """classifier/config.py: a resolver for floats of our own."""
    assert yaml.safe_load("1e-5") == "1e-5"


def test_pyyaml_lets_the_last_of_two_keys_win() -> None:
    """classifier/config.py: construct_mapping."""
    assert yaml.safe_load("a: 1\na: 2") == {"a": 2}


def test_albumentations_gives_all_transforms_the_same_numbers() -> None:
    """classifier/data/augmentations.py: Pipeline shares one generator."""
    compose = A.Compose([A.HorizontalFlip(), A.VerticalFlip()], seed=1)
    first, second = compose.transforms
    assert first.random_generator is not second.random_generator
    assert first.py_random.random() == second.py_random.random()


def test_jsonargparse_changes_the_lists_that_it_parses() -> None:
    """classifier/cli.py: parse_object gets a copy."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--layers", type=list[nn.Module])
    given: dict[str, Any] = {"layers": [{"class_path": "torch.nn.ReLU"}]}
    parser.parse_object(given)
    assert not isinstance(given["layers"][0], dict)


def test_jsonargparse_drops_an_unknown_key_with_an_empty_mapping() -> None:
    """classifier/explain.py: check_names runs before the parser."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.ReLU, "layer")
    found = parser.parse_object(
        {"layer": {"class_path": "torch.nn.ReLU", "init_args": {"inplce": {}}}}
    )
    assert "inplce" not in found.layer.get("init_args", {})


@pytest.mark.filterwarnings("ignore")
def test_save_last_of_lightning_writes_only_with_a_new_best(tmp_path: Path) -> None:
    """classifier/training.py: last.ckpt has a ModelCheckpoint of its own."""
    import lightning as L
    import torch

    class Worse(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", torch.tensor(-float(self.current_epoch)))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    saver = ModelCheckpoint(dirpath=tmp_path, monitor="score", mode="max", save_last=True)
    data = DataLoader(TensorDataset(torch.zeros(2, 1)))
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[saver],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Worse(), data, data)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


def test_model_checkpoint_keeps_its_version_counter_in_this_attribute() -> None:
    """classifier/training.py: _place turns it off for best.ckpt."""
    assert ModelCheckpoint(enable_version_counter=False)._enable_version_counter is False


@pytest.mark.filterwarnings("ignore")
def test_learning_rate_finder_leaves_the_schedule_at_the_old_rate(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """classifier/model/classifier.py: on_fit_start makes both anew."""
    import lightning as L
    from lightning.pytorch.callbacks import LearningRateFinder

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.5
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).pow(2).mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    monkeypatch.chdir(tmp_path)
    model = Plain()
    data = TensorDataset(torch.randn(64, 2))
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[LearningRateFinder(num_training_steps=20, early_stop_threshold=None)],
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=2))
    assert model.lr != 0.5
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5


def test_mean_metric_of_torchmetrics_forgets_weights_when_it_checks_nothing() -> None:
    """classifier/model/counted_losses.py: MeanLoss."""
    import torch
    from torchmetrics import MeanMetric

    mean = MeanMetric(nan_strategy="disable")
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(5.0), 1)
    assert mean.compute() == 3.0  # not 2.0
