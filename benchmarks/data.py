"""Images a second on one core, from files to uint8 or float batches, beside timm and torchvision.

    python benchmarks/data.py [--photos FOLDER] [--megapixels 12] [--rounds 7]

FOLDER holds one sub-folder per class; without it photographs of 400 x 500 pixels are generated.
Every way reads the same files in the same process without workers: random resized crop to 224
pixels and a flip, in batches of 32.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Case, Comparison, Quantity, run
from benchmarks.pictures import files_below, with_classes, write_photos
from classifier import FolderImageDataset, ImageDataModule, RandomResizedCrop

BATCH = 32
SIDE = 224
DECODER = "decoder alone (OpenCV)"
Way = Callable[[], int]


def enlarge(photos: Path, root: Path, megapixels: float, number: int = BATCH) -> Path:
    """The first photographs at the size of a phone's."""
    for index, file in enumerate(files_below(photos)[:number]):
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
    files = files_below(photos)

    def bare(decode: Callable[[bytes], Any]) -> Way:
        return lambda: sum(decode(file.read_bytes()) is not None for file in files)

    yield (
        DECODER,
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


def rate(way: Way) -> Callable[[], float]:
    """Images a second."""

    def once() -> float:
        started = time.perf_counter()
        number = way()
        return number / (time.perf_counter() - started)

    return once


def compared(key: str, title: str, photos: Path, cache: Path, rounds: int) -> Comparison:
    """All ways over one folder."""
    cases = tuple(
        Case(name, rate(way), ours=name.startswith("ours")) for name, way in ways(photos, cache)
    )
    quantity = Quantity("images/s", more_is_better=True)
    return Comparison(key, title, cases, (DECODER, "timm"), (quantity,), rounds)


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """Photographs as they are, and as large as a phone's."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        number = BATCH if given.smallest else 120
        photos = given.photos or write_photos(folder / "photos", number)
        title = f"{len(files_below(photos))} photographs"
        yield compared("data", title, photos, folder / "cache", 9)
        if given.megapixels:
            megapixels = min(given.megapixels, 1.0) if given.smallest else given.megapixels
            large = enlarge(photos, folder / "large", megapixels)
            title = f"{len(files_below(large))} of {megapixels:g} megapixels"
            yield compared("data.large", title, large, folder / "cache", 5)


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--photos", type=with_classes)
    parser.add_argument("--megapixels", type=float, default=12.0)


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
