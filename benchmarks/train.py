"""A training from image files, whole, beside four other programs on the same work.

    python benchmarks/train.py [--images FOLDER] [--epochs 3] [--rounds 3] [--size 128]

FOLDER holds train/<class>/* and val/<class>/* (or test/<class>/*); without it photographs of
400 x 500 pixels are generated. resnet18 with random weights in float32, batches of 32, AdamW,
random resized crop and flip, one worker, accuracy on the validation images after every epoch, a
checkpoint at the end. Seconds are those of the process from start to end; images a second are the
training images of the epochs after the first, validation included in the time: the difference
between a training of all epochs and one of a single epoch. Ours keeps a best and a last checkpoint
and metrics.csv, and writes no report here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from benchmarks import peer_environment
from benchmarks.measuring import Case, Comparison, Quantity, run
from benchmarks.pictures import files_below, write_photos
from benchmarks.processes import MAIN, seconds_of

BATCH = 32
PEERS = {
    "plain loop of timm's parts": "train_timm",
    "Hugging Face Trainer": "train_transformers",
    "fastai": "train_fastai",
    "ultralytics": "train_ultralytics",
}


def configuration(images: Path, epochs: int, size: int) -> dict[str, Any]:
    """The same work for our command."""

    def folder(name: str) -> dict[str, Any]:
        return {"class_path": "FolderImageDataset", "init_args": {"root": str(images / name)}}

    return {
        "custom_folder_name": "benchmark_train",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/resnet18", "pretrained": False, "image_size": size,
                "optimizer_config": {"name": "AdamW", "lr": 1e-3},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {"train": folder("train"), "val": folder("val")},
                "batch_size": BATCH, "num_workers": 1,
                "augmentations": {"train": [
                    {
                        "class_path": "albumentations.RandomResizedCrop",
                        "init_args": {"size": [size, size]},
                    },
                    {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}},
                ]},
            },
        },
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "devices": 1},
        "evaluation": {"report": False},
    }  # fmt: skip


def compared(images: Path, epochs: int, size: int, with_peers: bool) -> Comparison:
    """All programs over one folder with train/ and val/."""
    number = len(files_below(images / "train"))
    places = itertools.count()

    def timed(words: Callable[[int], list[str]]) -> Callable[[], tuple[float, float]]:
        def once() -> tuple[float, float]:
            # Where the last rounds' checkpoints do not lie.
            places_of_two = [Path(f"work{next(places)}").resolve() for _ in range(2)]
            found = []
            for length, place in zip((1, epochs), places_of_two, strict=True):
                place.mkdir()
                found.append(seconds_of(words(length), cwd=place))
            return found[1], (epochs - 1) * number / (found[1] - found[0])

        return once

    def ours(length: int) -> list[str]:
        file = Path(f"{length}.yaml").resolve()
        file.write_text(yaml.safe_dump(configuration(images, length, size)))
        return [*MAIN, "--config", str(file)]

    cases = [Case("ours", timed(ours), ours=True)]
    if with_peers:
        for name, script in PEERS.items():
            words = functools.partial(peer_environment.command, script, images, size, BATCH)
            cases.append(Case(name, timed(words)))
    references = tuple(case.name for case in cases[1:]) or ("ours",)
    return Comparison(
        "train", f"{number} photographs, {epochs} epochs at {size} px", tuple(cases), references,
        (Quantity("seconds"), Quantity("images/s", more_is_better=True)), rounds=3, warm=False,
    )  # fmt: skip


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One, in a folder that is gone afterwards."""
    found = given.images.resolve() if given.images else None
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        images = Path(name, "images")
        number = 64 if given.smallest else 480
        if found is None:
            write_photos(images / "train", number)
            write_photos(images / "val", number // 4)
        else:
            images.mkdir()
            val = "val" if (found / "val").exists() else "test"
            os.symlink(found / "train", images / "train")
            os.symlink(found / val, images / "val")
        size, epochs = (64, 2) if given.smallest else (given.size, given.epochs)
        yield compared(images, epochs, size, not given.without_peers)


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--images", type=Path)
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--size", type=int, default=128, help="in pixels")


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
