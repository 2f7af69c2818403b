"""Why a GPU waits: what the loader gives and what the model takes, each alone, and what would help.

Everything is measured in images a second. The loader runs without a model, and the model on one
batch that lies on the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.subject import Subject

BUSY_ENOUGH = 80.0  # per cent
WORTH = 1.1  # times faster: less is noise
SECONDS = 5.0  # of a loader that is measured


@dataclass(frozen=True)
class Limits:
    """Images a second of the two halves of a training.

    Args:
        loader: With the training's workers.
        model: One batch of the training's size again and again.
        lifts: What could be changed -> images a second of the half that limits, with it.
    """

    loader: float
    model: float
    lifts: Mapping[str, float]

    @property
    def loader_limits(self) -> bool:
        """Whether the loader is the slower half."""
        return self.loader < self.model

    def told(self, busy: float) -> str:
        """One line: which half limits, and what lifts it, the best first.

        Args:
            busy: Per cent of the time in which the GPU computes.
        """
        half, slower = ("loader", self.loader) if self.loader_limits else ("model", self.model)
        head = (
            f"The GPU is busy {busy:.0f} % of the time: the loader alone gives {self.loader:.0f} "
            f"images/s, the model alone takes {self.model:.0f}"
        )
        ordered = sorted(self.lifts.items(), key=lambda item: -item[1])
        worth = [f"{what} ({rate:.0f})" for what, rate in ordered if rate >= WORTH * slower]
        if worth:
            return f"{head}. The {half} limits; it is lifted by {', '.join(worth)}."
        tried = ", ".join(self.lifts)
        return f"{head}. The {half} limits, and none of these lifts it: {tried}."


def measured(subject: Subject, images: Path, batch: int, workers: int, seconds: float) -> Limits:
    """Both halves of a training, and what lifts the slower one.

    Args:
        subject: The model and its device.
        images: Folder with one sub-folder for each class.
        batch: Images a step.
        workers: Of the training.
        seconds: How long each loader is measured.
    """
    model = _model_rate(subject, batch)
    with tempfile.TemporaryDirectory() as cache:
        loader = _loader_rate(subject, images, batch, workers, seconds)
        if loader >= model:
            lifts = {f"a batch of {2 * batch}": _model_rate(subject, 2 * batch)}
            return Limits(loader, model, lifts)
        more = 2 * max(workers, 1)
        changes: dict[str, dict[str, Any]] = {
            f"{more} workers": {"workers": more},
            "create_dataset: true": {"cache": Path(cache)},
            "fewer transforms (a resize alone)": {"plain": True},
        }
        given = {"images": images, "batch": batch, "workers": workers, "seconds": seconds}
        lifts = {
            what: _loader_rate(subject, **{**given, **change}) for what, change in changes.items()
        }
    return Limits(loader, model, lifts)


def transforms(size: int, plain: bool = False) -> list[Any]:
    """Of a training: a random crop and a flip, or a resize alone."""
    import albumentations

    if plain:
        return [albumentations.Resize(size, size)]
    return [albumentations.RandomResizedCrop((size, size)), albumentations.HorizontalFlip(p=0.5)]


def _loader_rate(
    subject: Subject,
    images: Path,
    batch: int,
    workers: int,
    seconds: float,
    cache: Path | None = None,
    plain: bool = False,
) -> float:
    """Images a second of our loader, with nothing behind it."""
    from classifier import FolderImageDataset, ImageDataModule
    from classifier.data.workers import training_rate

    data = ImageDataModule(
        {"train": FolderImageDataset(str(images))},
        batch_size=batch, num_workers=workers, val_fraction=0.0, create_dataset=cache is not None,
        cache_dir=None if cache is None else str(cache),
        augmentations={"train": transforms(subject.size, plain)},
    )  # fmt: skip
    data.setup("fit")
    size = min(batch, max(1, len(data.stage("train")) // (2 * workers + 4)))
    return training_rate(data.stage("train"), workers, size, lambda: None, seconds)


def _model_rate(subject: Subject, batch: int) -> float:
    """Images a second of steps on one batch that lies on the device."""
    import torch

    from classifier import ImageClassifier
    from classifier.model.step_times import Setting, StepTimes

    model = ImageClassifier(subject.model, pretrained=False)
    model.build(["a", "b"])
    steps = StepTimes(model, torch.device(subject.device))
    pixels = torch.randint(0, 256, (batch, 3, subject.size, subject.size), dtype=torch.uint8)
    steps.take(pixels, torch.arange(batch) % 2)
    return batch / steps.seconds(Setting(subject.precision, channels_last=True), 5)
