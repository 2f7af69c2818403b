"""What a training step costs beside a bare PyTorch loop, and images a second beside timm's.

    python benchmarks/training.py step  [--rounds 7] [--steps 1000]
    python benchmarks/training.py files --images FOLDER [--rounds 3] [--epochs 2]

`step`: a model of one linear layer on batches that lie in memory, so that little else is measured:
with four metrics, metrics.csv and a progress bar, and in a loop of forward, loss, backward and
step; CPU time of the process. `files`: resnet18 at 128 pixels in bfloat16 and channels_last, with
one worker, random resized crop and flip, AdamW, from the image files in FOLDER (one sub-folder per
class): our command, and a plain loop over timm's model, data set, transforms and loader. Every
round runs each way once, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import timm
import timm.data
import torch
import yaml
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from classifier import ImageClassifier, main
from classifier.callbacks.recorder import RunRecorder
from classifier.commands.train import fit
from classifier.commands.trainer import attach, build_trainer
from classifier.data.loading import Batch
from classifier.runs import create_run

BATCH, SIDE, CLASSES = 32, 8, 10


class Linear(nn.Module):
    """One layer."""

    image_size = SIDE

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        logits: Tensor = self.head(images.flatten(1))
        return logits


class Timed:
    """A loader of batches that are there already, which takes the CPU time of its epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        started = time.process_time()
        for number, batch in enumerate(self.batches, start=1):
            if number == len(self.batches):  # nobody asks for one more
                self.seconds = time.process_time() - started
            yield batch


class InMemory(L.LightningDataModule):
    """A data module of one loader."""

    def __init__(self, loader: Timed) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Timed:
        """The loader."""
        return self.loader


def batches_in_memory(number: int) -> list[Batch]:
    """Noise with random targets."""
    return [
        Batch(
            torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(0, CLASSES, (BATCH,)),
            torch.arange(BATCH),
        )
        for _ in range(number)
    ]  # fmt: skip


def bare_steps(batches: list[Batch]) -> float:
    """Milliseconds of CPU time a step of a bare loop."""
    model = Linear(CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    started = time.process_time()
    for batch in batches:
        loss = cross_entropy(model(batch.images), batch.targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (time.process_time() - started) / len(batches) * 1e3


def our_steps(batches: list[Batch]) -> float:
    """The same by our trainer with metrics, metrics.csv and a progress bar drawn."""
    torch.manual_seed(0)
    model = ImageClassifier("training.Linear", pretrained=False, num_classes=CLASSES)
    model.build()
    loader = Timed(batches)
    bar = TQDMProgressBar(refresh_rate=20)
    arguments = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "callbacks": [bar]}
    with contextlib.redirect_stderr(io.StringIO()):
        trainer = build_trainer(arguments, "train", None)
        run = create_run("benchmark_training", "train", time.time())
        recorder = RunRecorder(run, {})
        attach(trainer, run, recorder, None)
        fit(trainer, model, InMemory(loader), run, recorder)
    return loader.seconds / len(batches) * 1e3


def compare_steps(rounds: int, steps: int) -> None:
    """Print milliseconds a step and what our trainer adds."""
    torch.set_num_threads(1)
    batches = batches_in_memory(steps)
    found: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        our_steps(batches[:50])
        for _ in range(rounds):
            found.append((bare_steps(batches), our_steps(batches)))
    added = [ours - bare for bare, ours in found]
    print(f"| ms a step (n = {rounds} x {steps} steps) | median | span |\n|---|---|---|")
    for name, values in (
        ("bare loop", [bare for bare, _ in found]),
        ("ours", [ours for _, ours in found]),
        ("added", added),
    ):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f}-{max(values):.2f} |")


def timm_images_a_second(images: Path, epochs: int) -> float:
    """A plain loop over timm's parts, in the last epoch."""
    dataset = timm.data.create_dataset("", root=str(images))
    number = len(dataset)
    loader = timm.data.create_loader(
        dataset, (3, 128, 128), BATCH, is_training=True, num_workers=1, use_prefetcher=False,
        interpolation="bilinear", hflip=0.5, color_jitter=None, device=torch.device("cpu"),
    )  # fmt: skip
    model = timm.create_model("resnet18", num_classes=CLASSES)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        started = time.perf_counter()
        for batch, targets in loader:
            batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(batch)
            loss = cross_entropy(logits.float(), targets % CLASSES)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return number / (time.perf_counter() - started)


def our_images_a_second(images: Path, epochs: int) -> float:
    """Our command, in the last epoch, metrics and logging included."""
    size = {"size": [128, 128]}
    folder = {"class_path": "FolderImageDataset", "init_args": {"root": str(images)}}
    config = {
        "custom_folder_name": "benchmark_training",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {"model_name": "timm/resnet18", "pretrained": False, "image_size": 128},
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {"train": folder},
                "val_fraction": 0.0, "batch_size": BATCH, "num_workers": 1,
                "augmentations": {"train": [
                    {"class_path": "albumentations.RandomResizedCrop", "init_args": size},
                    {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}},
                ]},
            },
        },
        "trainer": {
            "max_epochs": epochs, "accelerator": "cpu", "devices": 1, "precision": "bf16-mixed",
            "enable_checkpointing": False, "logger": False,
        },
    }  # fmt: skip
    errors = io.StringIO()
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        Path("config.yaml").write_text(yaml.safe_dump(config))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            main(["--config", "config.yaml"])
    seconds = re.findall(r"\(([\d.]+) s\)", errors.getvalue())
    return sum(path.is_file() for path in images.rglob("*")) / float(seconds[-1])


def compare_files(images: Path, epochs: int, rounds: int) -> None:
    """Print images a second, and ours in relation to timm's."""
    ways: dict[str, Callable[[], float]] = {
        "plain loop of timm's parts": lambda: timm_images_a_second(images, epochs),
        "ours": lambda: our_images_a_second(images, epochs),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    plain = next(iter(found.values()))
    print(f"| resnet18 at 128 px from files (n = {rounds}) | images/s | span | x timm |")
    print("|---|---|---|---|")
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, plain, strict=True))
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"| {name} | {statistics.median(values):.0f} | {spread} | {ratio:.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["step", "files"])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    if given.what == "step":
        compare_steps(given.rounds, given.steps)
    else:
        compare_files(given.images.resolve(), given.epochs, given.rounds)
