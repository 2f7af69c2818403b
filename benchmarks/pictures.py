"""Photographs for those who have none: smooth pictures with a camera's noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


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
    """All files of a folder, sorted."""
    return sorted(path for path in root.rglob("*") if path.is_file())
