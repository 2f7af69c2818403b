"""Images a second on one core, from files to uint8 or float batches, beside timm and torchvision.

    python benchmarks/data.py [--photos FOLDER] [--megapixels 12] [--rounds 7]

FOLDER holds one sub-folder per class; without it photographs of 400 x 500 pixels are generated.
Every way reads the same files in the same process without workers: random resized crop to 224
pixels and a flip, in batches of 32. Every round runs each way once, in turn; medians, the span from
the first to the third quartile, and ratios to the bare decoder and to timm's loader are printed.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image

from classifier import FolderImageDataset, ImageDataModule, RandomResizedCrop

BATCH = 32
SIDE = 224
Way = Callable[[], int]


def write_photos(root: Path, number: int = 120, size: tuple[int, int] = (400, 500)) -> Path:
    """Smooth pictures with a camera's noise, four classes, JPEG quality 90."""
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (size[0] // 25, size[1] // 25, 3), dtype=np.uint8)
        large = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(large) + rng.normal(0, 6, (*size, 3))
        file = root / f"class{index % 4}" / f"{index:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return root


def enlarge(photos: Path, root: Path, megapixels: float, number: int = BATCH) -> Path:
    """The first photographs at the size of a phone's."""
    for index, file in enumerate(sorted(p for p in photos.rglob("*") if p.is_file())[:number]):
        with Image.open(file) as image:
            factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
            size = (round(image.width * factor), round(image.height * factor))
            large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        target = root / f"class{index % 4}" / f"{index:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        large.save(target, quality=90)
    return root


def ways(photos: Path, cache: Path) -> Iterator[tuple[str, Way]]:
    """What is compared: each gives the number of images that it has read."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())

    def bare(decode: Callable[[bytes], Any]) -> Way:
        return lambda: sum(decode(file.read_bytes()) is not None for file in files)

    yield (
        "decoder alone (OpenCV)",
        bare(lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)),
    )
    yield (
        "decoder alone (Pillow)",
        bare(lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))),
    )
    yield "ours", ours(photos, cache=None)
    yield "ours, from the cache", ours(photos, cache=cache)
    yield "timm", timm_loader(photos)
    yield "torchvision ImageFolder + v2", torchvision_loader(photos)


def ours(photos: Path, cache: Path | None) -> Way:
    """The training loader of ImageDataModule."""
    transforms: list[Any] = [RandomResizedCrop(size=(SIDE, SIDE)), A.HorizontalFlip()]
    data = ImageDataModule(
        {"train": FolderImageDataset(str(photos))},
        batch_size=BATCH,
        num_workers=0,
        val_fraction=0.0,
        augmentations={"train": transforms},
        create_dataset=cache is not None,
        cache_dir=str(cache) if cache is not None else None,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    return lambda: sum(len(batch.images) for batch in loader)


def timm_loader(photos: Path) -> Way:
    """timm.data's training loader, its own crop, interpolation and flip, uint8 to the device."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(photos)), (3, SIDE, SIDE), BATCH, is_training=True,
        num_workers=0, persistent_workers=False, color_jitter=0.0, device=torch.device("cpu"),
        interpolation="bilinear",
    )  # fmt: skip
    return lambda: sum(len(images) for images, _ in loader)


def torchvision_loader(photos: Path) -> Way:
    """ImageFolder with torchvision's v2 transforms, as its references write them."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.ToImage(), v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    loader = torch.utils.data.DataLoader(ImageFolder(str(photos), transform), BATCH, shuffle=True)
    return lambda: sum(len(images) for images, _ in loader)


def measure(photos: Path, cache: Path, rounds: int) -> dict[str, list[float]]:
    """Images a second of every way, interleaved."""
    compared = dict(ways(photos, cache))
    rates: dict[str, list[float]] = {name: [] for name in compared}
    for way in compared.values():
        way()
    for _ in range(rounds):
        for name, way in compared.items():
            started = time.perf_counter()
            number = way()
            rates[name].append(number / (time.perf_counter() - started))
    return rates


def show(rates: dict[str, list[float]], title: str) -> None:
    """Print a table."""
    rounds = len(next(iter(rates.values())))
    print(f"\n| {title} (n = {rounds}) | images/s | quartiles | x the decoder | x timm |")
    print("|---|---|---|---|---|")
    bare = rates["decoder alone (OpenCV)"]
    for name, values in rates.items():
        low, _, high = statistics.quantiles(values, n=4)
        # Ratios of what ran side by side: other work on the machine slows both.
        to_bare, to_timm = (
            statistics.median(v / o for v, o in zip(values, other, strict=True))
            for other in (bare, rates["timm"])
        )
        middle = statistics.median(values)
        print(f"| {name} | {middle:.0f} | {low:.0f}-{high:.0f} | {to_bare:.2f} | {to_timm:.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = given.photos or write_photos(folder / "photos")
        show(measure(photos, folder / "cache", given.rounds), "photographs of 0.2 megapixels")
        if given.megapixels:
            large = enlarge(photos, folder / "large", given.megapixels)
            rates = measure(large, folder / "cache", max(2, given.rounds // 2))
            show(rates, f"of {given.megapixels:g} megapixels")


if __name__ == "__main__":
    main()
