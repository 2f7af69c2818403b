"""The same from Python, with a plain Trainer."""

from __future__ import annotations

from pathlib import Path

import albumentations as A
import lightning as L
import pytest

from classifier import FolderImageDataset, ImageClassifier, ImageDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def test_ten_lines_with_a_plain_trainer(images: Path) -> None:
    L.seed_everything(7, verbose=False)
    model = ImageClassifier(
        "timm/test_resnet", pretrained=False, optimizer_config={"name": "AdamW", "lr": 3e-3}
    )
    data = ImageDataModule(
        {"train": FolderImageDataset(str(images / "train"))},
        batch_size=8, num_workers=0,
        augmentations={"train": [A.Resize(32, 32)], "val": [A.Resize(32, 32)]},
    )  # fmt: skip
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    assert model.class_names == ["blue", "green", "red"]
    assert "validation_loss" in trainer.callback_metrics
    (metrics,) = trainer.validate(model, datamodule=data, verbose=False)
    assert metrics["validation_loss"] > 0


def test_number_of_classes_without_data_is_asked_for() -> None:
    from classifier.errors import ConfigError

    model = ImageClassifier("timm/test_resnet", pretrained=False)
    with pytest.raises(ConfigError, match="there is no data to take it from"):
        model.build()
