"""Albumentations pipelines: the one module that imports the library."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

# Without this the import asks the package index for a newer release.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from classifier.errors import ConfigError
from classifier.preprocessing import Preprocessing

TransformList = list[A.BasicTransform | A.BaseCompose]

_CV2_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}
# Two images unlike in size and shape: a pipeline that fixes the size makes them alike.
_PROBE_SHAPES = ((61, 83, 3), (96, 57, 3))


class Pipeline:
    """Transforms in sequence, with random numbers that only `reseed` decides.

    Left alone, Albumentations gives every worker, every epoch and every transform of a pipeline the
    same random numbers: two flips with p=0.5 would always happen together. Here all transforms of a
    pipeline draw from one generator, seeded anew for every image.

    Args:
        transforms: Albumentations transforms, applied in order.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(0))
        self._random = random.Random(0)
        self._compose = A.Compose(list(transforms))
        self._compose.set_random_state(self._generator, self._random)

    def reseed(self, seed: int) -> None:
        """Decide all random numbers of the next image.

        Args:
            seed: At least 0.
        """
        self._generator.bit_generator.state = np.random.PCG64(seed).state
        self._random.seed(seed)

    def __call__(self, *, image: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        """Transform one image.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            `{"image": (3, H', W')}`: uint8, or float where the transforms normalise.
        """
        return {"image": to_tensor(self._compose(image=image)["image"])}


def to_tensor(image: Any) -> torch.Tensor:
    """(H, W, 3) array -> (3, H, W) tensor of the same type; a tensor stays as it is."""
    if isinstance(image, torch.Tensor):
        return image
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def build_pipeline(
    transforms: TransformList | None, preprocessing: Preprocessing, key: str
) -> tuple[Pipeline, bool]:
    """The pipeline of one stage.

    Args:
        transforms: The user's list; None is the encoder's own preprocessing.
        preprocessing: The encoder's.
        key: The configuration key of the list, for messages.

    Returns:
        The pipeline, and whether the encoder's resize was put behind the user's list because the
        list leaves images at different sizes.

    Raises:
        ConfigError: a transform fails on an ordinary image, or gives something else than an image.
    """
    if transforms is None:
        return Pipeline(preprocessing_transforms(preprocessing)), False
    pipeline = Pipeline(transforms)
    if _fixes_size(pipeline, key):
        return pipeline, False
    pipeline = Pipeline([*transforms, *preprocessing_transforms(preprocessing)])
    _fixes_size(pipeline, key)
    return pipeline, True


def preprocessing_transforms(preprocessing: Preprocessing) -> list[A.BasicTransform]:
    """The encoder's resize and centre crop; the network normalises on its device."""
    height, width = preprocessing.size
    interpolation = _CV2_INTERPOLATION[preprocessing.interpolation]
    scaling: dict[str, Any] = {"interpolation": interpolation, "area_for_downscale": "image"}
    resize_height, resize_width = preprocessing.resize
    if preprocessing.resize_mode == "squash":
        steps = [A.Resize(resize_height, resize_width, **scaling)]
    elif preprocessing.resize_mode == "pad":
        steps = [
            A.LongestMaxSize(max_size_hw=(resize_height, resize_width), **scaling),
            A.PadIfNeeded(min_height=resize_height, min_width=resize_width),
        ]
    else:
        steps = [A.SmallestMaxSize(max_size_hw=(resize_height, resize_width), **scaling)]
    if preprocessing.resize_mode == "squash" and preprocessing.resize == preprocessing.size:
        return steps
    return [*steps, A.CenterCrop(height, width, pad_if_needed=True)]


def _fixes_size(pipeline: Pipeline, key: str) -> bool:
    shapes = set()
    for seed, shape in enumerate(_PROBE_SHAPES):
        pipeline.reseed(seed)
        probe = np.full(shape, 128, dtype=np.uint8)
        try:
            image = pipeline(image=probe)["image"]
        except Exception as error:
            # Albumentations and OpenCV raise errors of many kinds here.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ConfigError(
                key, f"fails on an image of {shape[0]} x {shape[1]} pixels ({reason})",
                remedy="Correct the transforms; put one that resizes first",
            ) from error  # fmt: skip
        if image.ndim != 3 or image.shape[0] != 3:
            raise ConfigError(
                key, "must give images with three channels", got=tuple(image.shape),
                remedy="Remove the transform that changes the channels",
            )  # fmt: skip
        shapes.add(tuple(image.shape))
    return len(shapes) == 1


def start_worker() -> None:
    """Keep OpenCV from starting threads of its own inside a DataLoader worker."""
    cv2.setNumThreads(0)
