"""configs/cifar10_fast.yaml through main(), on files as the makers of CIFAR-10 lay them out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets.cifar

from classifier import main

CONFIG = Path(__file__).parents[2] / "configs/cifar10_fast.yaml"
PARTS = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
NAMES = ["airplane", "automobile", "bird", "cat", "deer"]


def write_batches(folder: Path, each: int) -> None:
    """Noise in the files of the data set, which hold rows of 3 x 32 x 32 bytes."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for part in PARTS:
        pixels = numbers.integers(0, 256, (each, 3072), np.uint8)
        labels = [index % len(NAMES) for index in range(each)]
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))


def test_config_trains_on_all_images_and_tests_the_last_epoch(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batches(workplace / "data/cifar10/cifar-10-batches-py", 10)
    # The sums are those of the real files.
    monkeypatch.setattr(
        torchvision.datasets.cifar, "check_integrity", lambda file, md5=None: Path(file).is_file()
    )
    smaller = {"model.model_args.width": 2, "data.batch_size": 10, "data.num_workers": 0}
    words = [word for key, value in smaller.items() for word in (f"--{key}", str(value))]
    result: Any = main(["--config", str(CONFIG), *words, "--trainer.max_epochs", "2"])
    assert result.status == "completed" and result.precision == "bf16-mixed"
    assert "train_accuracy" in result.metrics and "accuracy" in result.evaluated["test"]
    kept = sorted(file.name for file in Path(result.output_dir, "checkpoints").iterdir())
    assert kept == ["best.ckpt", "last.ckpt"]
    rows = Path(result.output_dir, "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 10
