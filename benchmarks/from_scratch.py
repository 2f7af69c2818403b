"""Test accuracy from random weights: our recipes, and plain PyTorch loops over the same network.

    python benchmarks/from_scratch.py --images FOLDER [--seeds 0 1 2] [--recipes default best]
                                      [--ways ours plain]

FOLDER holds train/<class>/* and test/<class>/*. `ours`: configs/recipes/from_scratch.yaml
(default) or from_scratch_best.yaml (best) as a command of its own, its seconds from start to end,
and then the test images with last.ckpt, so that no image chose the epoch, and with best.ckpt. It
holds a twentieth of the training images out. `plain`: the same network, optimizer, schedule,
augmentations, precision and number of epochs without any of this project's training code, on all
training images. OMP_NUM_THREADS says how many threads both use.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import albumentations
import cv2
import numpy as np
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from classifier import SmallCNN, main

ROOT = Path(__file__).parents[1]
FILES = {"default": "from_scratch.yaml", "best": "from_scratch_best.yaml"}
EPOCHS = {"default": 30, "best": 40}
BATCH, SIDE = 128, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def our_way(images: Path, recipe: str, seed: int) -> tuple[float, str]:
    """Seconds of the training command, and the accuracy of its last and best checkpoint."""
    name = f"from_scratch_{recipe}_{seed}_{os.getpid()}"
    words = [
        "--config",
        str(ROOT / "configs/recipes" / FILES[recipe]),
        "--seed_everything",
        str(seed),
    ]
    words += ["--custom_folder_name", name, "--evaluation.report", "false"]
    for stage in ("train", "test"):
        key = f"--data.init_args.dataset_classes.{stage}.init_args.root"
        words += [key, str(images / stage)]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - started
    (run,) = Path("runs", name).iterdir()
    found = []
    for checkpoint in ("last", "best"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = main(["--test", "--ckpt_path", str(run / f"checkpoints/{checkpoint}.ckpt")])
        assert result is not None
        found.append(f"{result.metrics['test_accuracy']:.4f} ({checkpoint})")
    return seconds, ", ".join(found)


class Images(Dataset[tuple[Tensor, int]]):
    """Images uint8 (H, W, 3) of <class>/* and the index of the class."""

    def __init__(self, folder: Path, transform: albumentations.Compose | None = None) -> None:
        classes = sorted(path.name for path in folder.iterdir())
        self.files = [(f, i) for i, name in enumerate(classes) for f in (folder / name).iterdir()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, target = self.files[index]
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        if self.transform is not None:
            image = self.transform(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(image)), target


def normalised(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in channels_last."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def cutmix(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix with alpha 1 (arXiv:1905.04899); targets (N, C) float."""
    half = int(SIDE * math.sqrt(1 - random.random())) // 2
    y, x = random.randrange(SIDE), random.randrange(SIDE)
    rows, columns = slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)
    order = torch.randperm(len(images))
    images = images.clone()
    part = images[:, :, rows, columns]
    images[:, :, rows, columns] = images[order][:, :, rows, columns]
    kept = 1 - part.shape[2] * part.shape[3] / SIDE**2
    return images, kept * targets + (1 - kept) * targets[order]


def optimizer_of(model: nn.Module, recipe: str) -> torch.optim.Optimizer:
    """SGD or Muon, without weight decay on norms and biases."""
    decay = 5e-4 if recipe == "default" else 0.1
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe == "default":
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    return timm.optim.create_optimizer_v2(groups, "muon", lr=3e-3, weight_decay=0.0, momentum=0.9)  # type: ignore[no-any-return]


@torch.inference_mode()
def accuracy(model: nn.Module, folder: Path) -> float:
    """Fraction of the images that the model gets right."""
    model.eval()
    right = []
    for images, targets in DataLoader(Images(folder), 250):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            right.append((model(normalised(images)).argmax(1) == targets).float())
    return float(torch.cat(right).mean())


def train_plain(images: Path, recipe: str, seed: int) -> nn.Module:
    """The recipe without this project's training code."""
    transform = albumentations.Compose(
        [
            albumentations.Pad(4, border_mode=cv2.BORDER_REFLECT_101),
            albumentations.RandomCrop(SIDE, SIDE), albumentations.HorizontalFlip(p=0.5),
        ], seed=seed,
    )  # fmt: skip
    loader = DataLoader(
        Images(images / "train", transform), BATCH, shuffle=True, drop_last=True, num_workers=1,
        persistent_workers=True,
    )  # fmt: skip
    model = SmallCNN(10).to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model, recipe)
    total, best = len(loader) * EPOCHS[recipe], recipe == "best"
    warmup = round((0.1 if best else 0.15) * total)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / warmup if step < warmup
        else (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2,
    )  # fmt: skip
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)  # type: ignore[no-untyped-call]
    for epoch in range(EPOCHS[recipe]):
        for pixels, indices in loader:
            inputs, targets = normalised(pixels), nn.functional.one_hot(indices, 10).float()
            if best and epoch < 0.85 * EPOCHS[recipe] and random.random() < 0.5:
                inputs, targets = cutmix(inputs, targets)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(inputs)
            loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            if best:
                average.update_parameters(model)
    return average if best else model


def plain_way(images: Path, recipe: str, seed: int) -> tuple[float, str]:
    """Seconds of the training, and the accuracy after its last epoch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    started = time.perf_counter()
    model = train_plain(images, recipe, seed)
    return time.perf_counter() - started, f"{accuracy(model, images / 'test'):.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=list(FILES), default=list(FILES))
    ways = {"ours": our_way, "plain": plain_way}
    parser.add_argument("--ways", nargs="+", choices=list(ways), default=list(ways))
    given = parser.parse_args()
    print("| recipe | seed | way | seconds | test accuracy |\n|---|---|---|---|---|", flush=True)
    for seed in given.seeds:
        for recipe in given.recipes:
            for way in given.ways:
                seconds, scores = ways[way](given.images, recipe, seed)
                row = f"| {recipe} | {seed} | {way} | {seconds:.0f} | {scores} |"
                print(row, flush=True)
