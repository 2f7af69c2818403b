"""A frozen encoder that runs once for each image, beside one that runs every epoch.

    python benchmarks/frozen.py [--images FOLDER] [--epochs 10] [--rounds 3] [--freeze true 0.5]
    [--from_files] [--model timm/resnet18] [--size 128] [--precision 32-true] [--accelerator cpu]
    python benchmarks/frozen.py --parts sweep [--images FOLDER] [--trials 20]
                                [--uncached_trials 2]

FOLDER holds one sub-folder per class; without it images are generated. The encoder is fully and
half frozen: a ResNet's first two stages, half of a transformer's blocks. The whole training by
`main()` in a process that has everything imported, decoded images kept on disk beforehand, features
filled anew in every round; beside it a plain PyTorch loop over the same timm model in channels_last
with its images in RAM, without validation. On a GPU there are more images, and those of the plain
loop lie on it. With `--from_files` nothing decoded is kept: without features every epoch decodes,
as it does by default; there is no plain loop then. `sweep`: a search over the head's learning rate,
with an empty feature cache at its start, and without one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch
import yaml

from benchmarks.measuring import Case, Comparison, Quantity, run
from benchmarks.pictures import files_below, with_classes, write_photos
from benchmarks.subject import Subject, add_options, folder_of, subject_of
from classifier import main

BATCH = 32
WORK = Path("runs/benchmark_frozen")
CACHE = WORK / "cache"
FROM_FILES = False
NUMBERS = {"cpu": 300, "gpu": 3000}  # of images, where none are given


def configuration(
    images: Path, epochs: int, freeze: bool | float, subject: Subject
) -> dict[str, Any]:
    """A training on folders of images with nothing random before the encoder."""
    side = {"height": subject.size, "width": subject.size}
    resize = {"class_path": "albumentations.Resize", "init_args": side}
    return {
        "custom_folder_name": "benchmark_frozen",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": subject.model, "pretrained": False, "freeze_encoder": freeze,
                "image_size": subject.size,
                "optimizer_config": {"name": "AdamW", "lr": 1e-3},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {"train": folder_of(images)}, "batch_size": BATCH,
                "num_workers": 0,
                "create_dataset": not FROM_FILES, "cache_dir": str(CACHE), "val_fraction": 0.1,
                "augmentations": {"train": [resize], "val": [resize]},
            },
        },
        "trainer": {"max_epochs": epochs, "logger": False, **subject.trainer},
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


def kept(images: Path, epochs: int, freeze: bool | float, subject: Subject) -> float:
    """Ours, filling the cache included."""
    forget()
    return command(configuration(images, epochs, freeze, subject))


def every_epoch(images: Path, epochs: int, freeze: bool | float, subject: Subject) -> float:
    """Ours without the cache."""
    return command(configuration(images, epochs, freeze, subject), "--data.cache_features", "false")


def frozen_part(model: torch.nn.Module, freeze: bool | float) -> list[torch.nn.Module]:
    """What of a timm model is frozen: all but its head, or about half, as ours freezes it.

    Args:
        model: A ResNet or a vision transformer.
        freeze: True, or 0.5.
    """
    parts = dict(model.named_children())
    if freeze is True:
        head = model.get_classifier()  # type: ignore[operator]
        return [part for part in parts.values() if part is not head]
    if "blocks" in parts:
        blocks: Any = parts["blocks"]
        return [parts["patch_embed"], *blocks[: len(blocks) // 2]]
    return [parts[name] for name in ("conv1", "bn1", "layer1", "layer2")]


def plain_loop(images: torch.Tensor, epochs: int, freeze: bool | float, subject: Subject) -> float:
    """A bare PyTorch loop: uint8 images (N, 3, H, W) in memory, no validation, nothing logged."""
    torch.manual_seed(0)
    device, memory = torch.device(subject.device), torch.channels_last
    model = timm.create_model(subject.name, num_classes=10).to(device, memory_format=memory)
    for module in frozen_part(model, freeze):
        module.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    targets = (torch.arange(len(images)) % 10).to(device)
    images = images.to(device)
    started = time.perf_counter()
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(BATCH):  # type: ignore[no-untyped-call]
            batch = (images[places].float() - 127.5) / 60.0
            with torch.autocast(device.type, torch.bfloat16, enabled=subject.bf16):
                logits = model(batch.contiguous(memory_format=memory))
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    if subject.on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def epochs(
    images: Path, number_of_epochs: int, subject: Subject, freeze: bool | float
) -> Comparison:
    """Both ways and the plain loop."""
    number = len(files_below(images))
    shape = round(0.9 * number), 3, subject.size, subject.size
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    work = images, number_of_epochs, freeze, subject
    kept_case = Case("features kept, filling included", lambda: kept(*work), ours=True)
    every_case = Case("the encoder every epoch", lambda: every_epoch(*work), ours=True)
    cases, references = [kept_case, every_case], [every_case.name]
    if not FROM_FILES:
        peer = Case("plain loop, training only", lambda: plain_loop(pixels, *work[1:]))
        cases.append(peer)
        references.append(peer.name)
    title = f"{number} images, {number_of_epochs} epochs, {subject.name} frozen {freeze}"
    key = f"{subject.key('frozen')}.{str(freeze).lower()}"
    key += ".from_files" if FROM_FILES else ""
    return Comparison(key, title, tuple(cases), tuple(references), rounds=3, warm=False)


def sweeps(
    images: Path, number_of_epochs: int, subject: Subject, trials: int, uncached_trials: int
) -> Comparison:
    """How long a trial of a head-only sweep takes with and without the features."""
    config = configuration(images, number_of_epochs, True, subject)
    rate = "model.init_args.optimizer_config.lr"
    config["optuna"] = {
        "tune": True, "direction": "maximize", "metric": "validation_f1_score", "pruner": None,
        "search_spaces": {rate: {"distribution": "loguniform", "low": 1e-4, "high": 1e-1}},
    }  # fmt: skip
    studies = itertools.count()

    def a_trial(number: int, keep: str) -> float:
        forget()
        study = f"benchmark_frozen_{os.getpid()}_{next(studies)}"
        words = ["--optuna.n_trials", str(number), "--optuna.study_name", study]
        return command(config, *words, "--data.cache_features", keep) / number

    cases = (
        Case(f"features kept, {trials} trials", lambda: a_trial(trials, "true"), ours=True),
        Case(
            f"the encoder every epoch, {uncached_trials} trials",
            lambda: a_trial(uncached_trials, "false"),
        ),
    )
    quantity = Quantity("seconds a trial")
    title = f"head-only sweep, {number_of_epochs} epochs"
    return Comparison(
        f"{subject.key('frozen')}.sweep",
        title,
        cases,
        (cases[1].name,),
        (quantity,),
        rounds=1,
        warm=False,
    )


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """What the command line asks for; the images are decoded and kept before."""
    global FROM_FILES
    FROM_FILES = given.from_files
    found, subject = given.images.resolve() if given.images else None, subject_of(given)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        number = 40 if given.smallest else NUMBERS[subject.accelerator]
        side = subject.size, subject.size
        images = found or write_photos(Path("photos").resolve(), number, side)
        length = 2 if given.smallest else given.epochs
        command(
            configuration(images, 1, True, subject), "--data.cache_features", "false"
        )  # decodes
        if "epochs" in given.parts:
            for word in given.freeze:
                freeze = word == "true" or float(word)
                yield epochs(images, length, subject, freeze)
        if "sweep" in given.parts:
            numbers = (3, 2) if given.smallest else (given.trials, given.uncached_trials)
            yield sweeps(images, length, subject, *numbers)


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parts = ["epochs", "sweep"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=["epochs"])
    parser.add_argument("--images", type=with_classes)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--freeze", nargs="+", default=["true", "0.5"])
    parser.add_argument("--from_files", action="store_true")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--uncached_trials", type=int, default=2)
    add_options(parser, size=128)


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
