"""A frozen encoder that runs once for each image, beside one that runs every epoch.

    python benchmarks/frozen.py epochs --images FOLDER [--epochs 10] [--rounds 3] [--bf16]
                                       [--freeze true 0.5] [--from_files]
    python benchmarks/frozen.py sweep  --images FOLDER [--trials 20] [--uncached_trials 4]

FOLDER holds one sub-folder per class. resnet18 at 128 pixels, fully and half frozen. `epochs`: the
whole training by `main()` in a process that has everything imported, decoded images kept on disk
beforehand, features filled anew in every round; beside it a plain PyTorch loop over the same timm
model in channels_last with its images in RAM, without validation; `--bf16` is all of that in mixed
precision. With `--from_files` nothing decoded is kept: without features every epoch decodes, as it
does by default; there is no plain loop then. `sweep`: a search over the head's learning rate,
with an empty feature cache at its start, and without one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from classifier import main

SIZE = 128
BATCH = 32
WORK = Path("runs/benchmark_frozen")
CACHE = WORK / "cache"


FROM_FILES = False


def configuration(
    images: Path, epochs: int, freeze: bool | float, bf16: bool = False
) -> dict[str, Any]:
    """A training on folders of images with nothing random before the encoder."""
    resize = {"class_path": "albumentations.Resize", "init_args": {"height": SIZE, "width": SIZE}}
    folder = {"class_path": "FolderImageDataset", "init_args": {"root": str(images)}}
    return {
        "custom_folder_name": "benchmark_frozen",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/resnet18", "pretrained": False, "freeze_encoder": freeze,
                "optimizer_config": {"name": "AdamW", "lr": 1e-3},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {"train": folder}, "batch_size": BATCH, "num_workers": 0,
                "create_dataset": not FROM_FILES, "cache_dir": str(CACHE), "val_fraction": 0.1,
                "augmentations": {"train": [resize], "val": [resize]},
            },
        },
        "trainer": {
            "max_epochs": epochs, "accelerator": "cpu", "devices": 1,
            "precision": "bf16-mixed" if bf16 else "32-true", "logger": False,
        },
        "evaluation": {"report": False},
    }  # fmt: skip


def command(config: dict[str, Any], *words: str) -> float:
    """Seconds of one command, its output swallowed."""
    WORK.mkdir(parents=True, exist_ok=True)
    file = WORK / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["--config", str(file), *words])
    return time.perf_counter() - started


def forget() -> None:
    """Empty the feature cache; decoded images stay."""
    shutil.rmtree(CACHE / "features", ignore_errors=True)


def kept(images: Path, epochs: int, freeze: bool | float, bf16: bool) -> float:
    """Ours, filling the cache included."""
    forget()
    return command(configuration(images, epochs, freeze, bf16))


def every_epoch(images: Path, epochs: int, freeze: bool | float, bf16: bool) -> float:
    """Ours without the cache."""
    return command(configuration(images, epochs, freeze, bf16), "--data.cache_features", "false")


def plain_loop(images: torch.Tensor, epochs: int, freeze: bool | float, bf16: bool) -> float:
    """A bare PyTorch loop: uint8 images (N, 3, H, W) in RAM, no validation, nothing logged."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10).to(memory_format=torch.channels_last)
    frozen = [model.conv1, model.bn1, model.layer1, model.layer2]
    if freeze is True:
        frozen += [model.layer3, model.layer4]
    for module in frozen:
        module.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    targets = torch.arange(len(images)) % 10
    started = time.perf_counter()
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(BATCH):
            batch = (images[places].float() - 127.5) / 60.0
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(batch.contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


def compare_epochs(
    images: Path, epochs: int, rounds: int, bf16: bool, fractions: list[bool | float]
) -> None:
    """Print a table of both ways and the plain loop, for a fully and a half frozen encoder."""
    number = sum(path.is_file() for path in images.rglob("*"))
    pixels = torch.randint(0, 256, (round(0.9 * number), 3, SIZE, SIZE), dtype=torch.uint8)
    command(configuration(images, 1, True), "--data.cache_features", "false")  # decodes
    print(f"| {number} images, {epochs} epochs (n = {rounds}) | seconds | span | x kept |")
    print("|---|---|---|---|")
    for freeze in fractions:
        ways: dict[str, Callable[[], float]] = {
            "features kept, filling included": lambda f=freeze: kept(images, epochs, f, bf16),
            "every epoch": lambda f=freeze: every_epoch(images, epochs, f, bf16),
            "plain loop, training only": lambda f=freeze: plain_loop(pixels, epochs, f, bf16),
        }
        if FROM_FILES:
            del ways["plain loop, training only"]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(way())
        first = next(iter(seconds.values()))
        for name, found in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
            print(
                f"| frozen {freeze}: {name} | {statistics.median(found):.1f} | "
                f"{min(found):.1f}-{max(found):.1f} | {ratio:.2f} |",
                flush=True,
            )


def compare_sweeps(images: Path, epochs: int, trials: int, uncached_trials: int) -> None:
    """Print how long a trial of a head-only sweep takes with and without the features."""
    config = configuration(images, epochs, True)
    rate = "model.init_args.optimizer_config.lr"
    config["optuna"] = {
        "tune": True, "direction": "maximize", "metric": "validation_f1_score", "pruner": None,
        "search_spaces": {rate: {"distribution": "loguniform", "low": 1e-4, "high": 1e-1}},
    }  # fmt: skip
    command(configuration(images, 1, True), "--data.cache_features", "false")  # decodes
    print("| head-only sweep | trials | seconds | seconds a trial |\n|---|---|---|---|")
    for name, number, keep in (("kept", trials, "true"), ("every epoch", uncached_trials, "false")):
        forget()
        study = f"benchmark_frozen_{name.split()[0]}_{os.getpid()}"
        words = ["--optuna.n_trials", str(number), "--optuna.study_name", study]
        seconds = command(config, *words, "--data.cache_features", keep)
        print(f"| {name} | {number} | {seconds:.1f} | {seconds / number:.2f} |", flush=True)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["epochs", "sweep"])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--freeze", nargs="+", default=["true", "0.5"])
    parser.add_argument("--from_files", action="store_true")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--uncached_trials", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    FROM_FILES = given.from_files
    if given.what == "epochs":
        fractions = [word == "true" or float(word) for word in given.freeze]
        compare_epochs(given.images, given.epochs, given.rounds, given.bf16, fractions)
    else:
        compare_sweeps(given.images, given.epochs, given.trials, given.uncached_trials)
