"""A picture of what training sees: augmented images, a row a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from classifier.data.checking import DataFacts
from classifier.data.findings import one_line
from classifier.errors import RunError
from classifier.preprocessing import Preprocessing

MOST_CLASSES = 12
PER_CLASS = 6
_CELL = 128
_GAP = 6
_HEADING = 24


def draw_samples(
    stage: Any, facts: DataFacts, preprocessing: Preprocessing
) -> dict[str, list[NDArray[np.uint8]]]:
    """Augmented images of the first classes, as the pipeline of training gives them.

    Of a class with few images the same ones come again, as another epoch has them.

    Args:
        stage: The training's StageDataset.
        facts: Its entries, in the order of the stage; images that cannot be decoded are left out.
        preprocessing: Whose mean and standard deviation are undone where images are normalised.

    Returns:
        Class name -> images (H, W, 3) uint8, at most PER_CLASS of them.
    """
    places: dict[str, list[int]] = {name: [] for name in facts.class_names[:MOST_CLASSES]}
    pairs = zip(facts.entries, facts.files, strict=True)
    train = [(entry, file) for entry, file in pairs if entry.stage == "train"]
    for place, (entry, file) in enumerate(train):
        if file is None or file.error is None:
            for name in entry.labels:
                if name in places:
                    places[name].append(place)
    drawn = {name: _images(stage, found, preprocessing) for name, found in places.items()}
    return {name: images for name, images in drawn.items() if images}


def _images(
    stage: Any, places: Sequence[int], preprocessing: Preprocessing
) -> list[NDArray[np.uint8]]:
    images: list[NDArray[np.uint8]] = []
    for number in range(max(len(places), PER_CLASS) if places else 0):
        if len(images) == PER_CLASS:
            break
        epoch, index = divmod(number, len(places))
        try:
            tensor = stage[(epoch, places[index])][0]
        except RunError:  # of a data set that decodes by its own rules
            continue
        images.append(_pixels(tensor.numpy(), preprocessing))
    return images


def _pixels(image: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(3, H, W), uint8 or normalised -> (H, W, 3) uint8."""
    image = image.transpose(1, 2, 0)
    if image.dtype == np.uint8:
        return image
    pixels = image * np.array(preprocessing.std) + np.array(preprocessing.mean)
    return np.asarray(np.clip(pixels * 255, 0, 255).round(), dtype=np.uint8)


def grid(samples: Mapping[str, Sequence[NDArray[np.uint8]]]) -> Image.Image:
    """The images as one picture, each class under its name.

    Args:
        samples: Class name -> images (H, W, 3) uint8.
    """
    step = _CELL + _GAP
    canvas = Image.new("RGB", (PER_CLASS * step - _GAP, len(samples) * (step + _HEADING)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=15)
    for row, (name, images) in enumerate(samples.items()):
        top = row * (step + _HEADING)
        draw.text((0, top + 2), _heading(name), fill=(34, 34, 34), font=font)
        for column, pixels in enumerate(images):
            cell = _fitted(Image.fromarray(pixels))
            left = column * step + (_CELL - cell.width) // 2
            canvas.paste(cell, (left, top + _HEADING + (_CELL - cell.height) // 2))
    return canvas


def _heading(name: str) -> str:
    # The font that Pillow brings along knows Latin letters only.
    return one_line(name)[:90].encode("latin-1", "replace").decode("latin-1")


def _fitted(image: Image.Image) -> Image.Image:
    """Scaled to a cell, its aspect ratio kept; pixels of small images stay sharp squares."""
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, method)
