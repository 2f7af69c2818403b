"""What a training step costs beside a bare PyTorch loop.

    python benchmarks/step.py [--rounds 7] [--steps 1000]

A model of one linear layer on batches that lie in memory, so that little else is measured: with
four metrics, metrics.csv and a progress bar, and in a loop of forward, loss, backward and step; CPU
time of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.measuring import Case, Comparison, Quantity, run
from classifier import ImageClassifier
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
    model = ImageClassifier("benchmarks.step.Linear", pretrained=False, num_classes=CLASSES)
    model.build()
    loader = Timed(batches)
    bar = TQDMProgressBar(refresh_rate=20)
    arguments = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "callbacks": [bar]}
    with contextlib.redirect_stderr(io.StringIO()):
        trainer = build_trainer(arguments, "train", None)
        folder = create_run("benchmark_step", "train", time.time())
        recorder = RunRecorder(folder, {})
        attach(trainer, folder, recorder, None)
        fit(trainer, model, InMemory(loader), folder, recorder)
    return loader.seconds / len(batches) * 1e3


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One: both, and what ours adds."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    steps = 50 if given.smallest else given.steps
    batches = batches_in_memory(steps)
    cases = (
        Case("bare loop", lambda: bare_steps(batches)),
        Case("ours", lambda: our_steps(batches), ours=True),
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield Comparison(
            "step", f"{steps} steps", cases, ("bare loop",),
            (Quantity("ms of CPU time a step"),), rounds=7,
            derived={"added": lambda found: found["ours"] - found["bare loop"]},
        )  # fmt: skip


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--steps", type=int, default=1000)


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
