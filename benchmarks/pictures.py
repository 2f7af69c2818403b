"""Photographs: the folders that a command line names, and smooth pictures for those without."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# Not the program's own list: that it could not read a folder is to be found by running it.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def write_photos(
    root: Path,
    number: int = 120,
    size: tuple[int, int] = (400, 500),
    classes: int = 4,
    names: int = 1,
) -> Path:
    """Write JPEG files of quality 90, smoother than a photograph and so faster to decode.

    Args:
        root: Folder that gets a sub-folder for each class.
        number: Of photographs.
        size: Height and width in pixels.
        classes: Number of sub-folders; 0 writes all files into `root` itself.
        names: How many names each gets: a data set of many more files, as quickly written.
    """
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (size[0] // 25, size[1] // 25, 3), dtype=np.uint8)
        large = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(large) + rng.normal(0, 6, (*size, 3))
        folder = root / f"class{index % classes}" if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = noisy.clip(0, 255).astype(np.uint8)
        file = folder / f"{index:04d}.jpg"
        Image.fromarray(pixels).save(file, quality=90)
        for other in range(1, names):
            os.link(file, folder / f"{index:04d}_{other}.jpg")
    return root


def files_below(root: Path) -> list[Path]:
    """All image files of a folder, sorted."""
    return sorted(_images(root))


def with_images(word: str) -> Path:
    """What argparse is to make of a word: a folder with images at any depth."""
    root = Path(word)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise argparse.ArgumentTypeError(f"{problem}, got {word}")
    if not _has_images(root):
        raise argparse.ArgumentTypeError(f"no images in this folder, got {word}")
    return root


def with_classes(word: str) -> Path:
    """A folder with a folder for each of at least two classes, and images in each."""
    root = with_images(word)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    if len(folders) < 2:
        raise argparse.ArgumentTypeError(
            f"needs a folder for each of at least two classes, got {word}"
        )
    for folder in folders:
        if not _has_images(folder):
            raise argparse.ArgumentTypeError(f"no images of the class {folder.name}, got {word}")
    return root


def with_splits(word: str) -> Path:
    """A folder with train/, and val/ or test/, each with a folder for each class."""
    root = with_images(word)
    with_classes(str(root / "train"))
    with_classes(str(validation_of(root)))
    return root


def validation_of(root: Path) -> Path:
    """The images to validate on, of a folder with val/ or test/."""
    return root / ("val" if (root / "val").exists() else "test")


def _has_images(root: Path) -> bool:
    return next(_images(root), None) is not None


def _images(root: Path) -> Iterator[Path]:
    # Not by rglob, which enters no folder that is a link.
    for folder, _, names in os.walk(root, followlinks=True):
        yield from (Path(folder, name) for name in names if name.lower().endswith(EXTENSIONS))
