"""A training from image files, whole, beside four other programs on the same work.

    python benchmarks/train.py [--images FOLDER] [--epochs 3] [--rounds 3] [--batch 32]
    [--model timm/resnet18] [--size 128] [--precision 32-true] [--accelerator cpu] [--workers 1]

FOLDER holds train/<class>/* and val/<class>/* (or test/<class>/*); without it photographs of
400 x 500 pixels are generated. Random weights, AdamW, random resized crop and flip, accuracy on the
validation images after every epoch, a checkpoint at the end. Seconds are those of the process from
start to end; images a second are the training images of the epochs after the first, validation
included in the time: the difference between a training of all epochs and one of a single epoch.
Ours keeps a best and a last checkpoint and metrics.csv, and writes no report here.

`ours, as it chooses` leaves precision, memory format and workers open, and takes what an earlier
and longer training of the same has measured: one as short as these has no time for it. `timm's
parts, tuned` is a loop in bfloat16, channels_last and a fused optimizer. On a GPU there is no
float32: all are told the same precision, workers are all cores, and a column says how busy the GPU
is in the longer training, without its first seconds: as many as that of one epoch takes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from benchmarks import gpu, limits, peer_environment
from benchmarks.measuring import Case, Comparison, Quantity, run
from benchmarks.pictures import files_below, validation_of, with_splits, write_photos
from benchmarks.processes import MAIN, seconds_of
from benchmarks.subject import (
    BF16,
    FLOAT32,
    Subject,
    add_options,
    at_least,
    folder_of,
    subject_of,
)
from classifier.cores import usable_cores

SECONDS, RATE = Quantity("seconds"), Quantity("images/s", more_is_better=True)
BUSY = Quantity("% of the time the GPU is busy", more_is_better=True)
CHOOSES = "ours, as it chooses"
PLAIN, TUNED = "plain loop of timm's parts", "timm's parts, tuned"
CHOICES = Path("runs/.speed")
LONG_STEPS = 10_000
RESNETS = ("resnet18", "resnet50")  # that ultralytics has of torchvision


@dataclass(frozen=True)
class Work:
    """What all programs do.

    Args:
        subject: The model, and on what.
        images: Folder with train/ and val/.
        batch: Images a step.
        epochs: At least 2.
        workers: Processes that decode.
    """

    subject: Subject
    images: Path
    batch: int
    epochs: int
    workers: int

    @property
    def number(self) -> int:
        """Of training images."""
        return len(files_below(self.images / "train"))


def configuration(work: Work, epochs: int, precision: str | None) -> dict[str, Any]:
    """The same work for our command.

    Args:
        work: Of all programs.
        epochs: Of this training.
        precision: Of the trainer, with the work's workers and channels_last; None leaves all open.
    """
    size, chooses = work.subject.size, precision is None
    crop = {"class_path": "albumentations.RandomResizedCrop", "init_args": {"size": [size, size]}}
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    return {
        "custom_folder_name": "benchmark_train",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": work.subject.model, "pretrained": False, "image_size": size,
                "channels_last": None if chooses else True,
                "optimizer_config": {"name": "AdamW", "lr": 1e-3},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {
                    "train": folder_of(work.images / "train"),
                    "val": folder_of(work.images / "val"),
                },
                "batch_size": work.batch, "num_workers": "auto" if chooses else work.workers,
                "augmentations": {"train": [crop, flip]},
            },
        },
        "trainer": {
            "max_epochs": epochs, "accelerator": work.subject.accelerator, "devices": 1,
            "precision": precision,
        },
        "evaluation": {"report": False},
    }  # fmt: skip


class Training:
    """One program's training, as two processes: of one epoch, and of all.

    Args:
        work: What it does.
        words: Number of epochs -> command line.
        measured: Folder of what an earlier training has measured; None where nothing is to be.
    """

    _places = itertools.count()

    def __init__(
        self, work: Work, words: Callable[[int], list[str]], measured: Path | None = None
    ) -> None:
        self.work = work
        self.words = words
        self.measured = measured
        self.place = Path()  # where the last one ran
        self.busy: list[float] = []

    def once(self) -> tuple[float, ...]:
        """Seconds of all epochs, images a second after the first, and on a GPU how busy it was."""
        one = seconds_of(self.words(1), cwd=self._new_place())
        self.place = self._new_place()
        words = self.words(self.work.epochs)
        if not self.work.subject.on_gpu:
            return self._figures(one, seconds_of(words, cwd=self.place))
        with gpu.watching(self.place / "busy.csv") as watch:
            whole = seconds_of(words, cwd=self.place)
        self.busy.append(watch.busy(after=one))
        return *self._figures(one, whole), self.busy[-1]

    def _figures(self, one: float, whole: float) -> tuple[float, float]:
        images = (self.work.epochs - 1) * self.work.number
        return whole, images / (whole - one) if whole > one else nan

    def _new_place(self) -> Path:
        """A folder without checkpoints of rounds before, and without what they measured."""
        place = Path(f"work{next(self._places)}").resolve()
        place.mkdir()
        if self.measured is not None:
            shutil.copytree(self.measured, place / CHOICES)
        return place

    def remark(self) -> str:
        """What was chosen, and what limits where the GPU waits."""
        assert self.measured is not None
        (choice,) = self.measured.glob("*.json")
        told = f"{CHOOSES}: {json.loads(choice.read_text(encoding='utf-8'))['told']}"
        low = [busy for busy in self.busy if busy < limits.BUSY_ENOUGH]
        if not low:
            return told
        (file,) = self.place.glob("runs/benchmark_train/*/config.yaml")
        workers = yaml.safe_load(file.read_text())["data"]["init_args"]["num_workers"]
        found = limits.measured(
            self.work.subject, self.work.images / "train", self.work.batch, workers, limits.SECONDS
        )
        return f"{told}\n\n{CHOOSES}, {workers} workers: {found.told(min(low))}"


def ours(work: Work, precision: str | None) -> Training:
    """Our command; a precision of None leaves open what can be."""

    def words(epochs: int) -> list[str]:
        file = Path(f"{epochs}_{precision}.yaml").resolve()
        file.write_text(yaml.safe_dump(configuration(work, epochs, precision)))
        return [*MAIN, "--config", str(file)]

    return Training(work, words, measured_by_longer(work) if precision is None else None)


def measured_by_longer(work: Work) -> Path:
    """Let a training of an hour measure, and end it after a step; the folder of what it has found.

    A max_time would end it too, but in its share nothing is measured.
    """
    place = Path("longer").resolve()
    place.mkdir()
    content = configuration(work, max(1, LONG_STEPS * work.batch // work.number), None)
    content["trainer"]["callbacks"] = [{"class_path": "benchmarks.ending.EndAtOnce"}]
    file = place / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    seconds_of([*MAIN, "--config", str(file)], cwd=place)
    return place / CHOICES


def theirs(work: Work, script: str, *more: str) -> Training:
    """One of the scripts in peers/."""
    subject = work.subject
    options = ["--model", subject.name, "--device", subject.device, "--workers", work.workers]

    def words(epochs: int) -> list[str]:
        places = work.images, subject.size, work.batch, epochs
        return peer_environment.command(script, *places, *options, *more)

    return Training(work, words)


def peers(work: Work, installed: bool = False) -> dict[str, Training]:
    """The other programs: each in the precision of all, the plain loop also tuned.

    Args:
        work: What they do.
        installed: Only those that the project has.
    """
    subject = work.subject
    half = ["--bf16"] if subject.bf16 else []
    found = {TUNED: theirs(work, "train_timm", "--tuned", "--bf16")}
    if not subject.bf16:
        found = {PLAIN: theirs(work, "train_timm"), **found}
    if not installed or peer_environment.is_installed("train_transformers"):
        found["Hugging Face Trainer"] = theirs(work, "train_transformers", *half)
    if installed:
        return found
    if subject.on_gpu or not subject.bf16:  # the mixed precision of these is a GPU's alone
        found["fastai"] = theirs(work, "train_fastai", *half)
        if subject.name in RESNETS:
            found["ultralytics"] = theirs(work, "train_ultralytics", *half)
    return found


def compared(work: Work, others: dict[str, Training]) -> Comparison:
    """Ours and all other programs over one folder with train/ and val/."""
    subject = work.subject
    fixed = {FLOAT32: "ours, float32", BF16: "ours, bfloat16"}[subject.precision]
    chooses = ours(work, None)
    cases = [
        Case(fixed, ours(work, subject.precision).once, ours=True),
        Case(CHOOSES, chooses.once, ours=True),
    ]
    cases += [Case(name, training.once) for name, training in others.items()]
    references = tuple(case.name for case in cases if not case.ours) or (fixed,)
    title = (
        f"{work.number} images, {work.epochs} epochs in batches of {work.batch}, "
        f"{subject.name} at {subject.size} px"
    )
    quantities = (SECONDS, RATE, BUSY) if subject.on_gpu else (SECONDS, RATE)
    return Comparison(
        subject.key("train"), title, tuple(cases), references, quantities, rounds=3, warm=False,
        remark=chooses.remark,
    )  # fmt: skip


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One, in a folder that is gone afterwards."""
    found = given.images.resolve() if given.images else None
    subject = subject_of(given)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        images = Path(name, "images")
        number = 64 if given.smallest else 480
        names = 40 if subject.on_gpu and not given.smallest else 1
        if found is None:
            write_photos(images / "train", number, names=names)
            write_photos(images / "val", number // 4, names=names)
        else:
            images.mkdir()
            os.symlink(found / "train", images / "train")
            os.symlink(validation_of(found), images / "val")
        epochs = 2 if given.smallest else given.epochs or (2 if subject.on_gpu else 3)
        batch = given.batch or (64 if subject.on_gpu else 32)
        usual = usable_cores() if subject.on_gpu else 1
        workers = usual if given.workers is None else given.workers
        work = Work(subject, images, batch, epochs, workers)
        yield compared(work, {} if given.without_peers else peers(work, given.installed_peers))


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--images", type=with_splits)
    parser.add_argument("--epochs", type=at_least(2), help="(default: 3, on a GPU 2)")
    parser.add_argument("--batch", type=at_least(2), help="of a step (default: 32, on a GPU 64)")
    parser.add_argument(
        "--workers", type=at_least(0), help="(default: 1, on a GPU one for each core)"
    )
    add_options(parser, size=128)


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
