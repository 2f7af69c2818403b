"""Albumentations pipelines: with transforms.py the one place that imports the library."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import threading
from collections.abc import Sequence
from typing import Any, Self

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray

from classifier.data.presets import transforms_of
from classifier.data.transforms import (
    EncoderCrop,
    EncoderResize,
    RandomResizedCrop,
    TorchvisionTransform,
    to_tensor,
)
from classifier.errors import ConfigError
from classifier.importing import import_path
from classifier.preprocessing import Preprocessing

TransformList = list[A.BasicTransform | A.BaseCompose]

# A reduced JPEG file is resized once more: with so much room left, its pixels then differ by less
# than 1 of 255 on average from those of the whole file.
_ROOM = 2
# Without random numbers, when p is 1 and padding is centred.
_STEADY = (
    A.Resize, A.SmallestMaxSize, A.LongestMaxSize, A.CenterCrop, A.Crop, A.Pad, A.PadIfNeeded,
    A.Normalize, A.ToFloat, ToTensorV2, EncoderResize, EncoderCrop,
)  # fmt: skip
# Two images unlike in size and shape: a pipeline that fixes the size makes them alike.
_PROBE_SHAPES = ((61, 83, 3), (96, 57, 3))


class Pipeline:
    """Transforms in sequence, with random numbers that only `reseed` decides.

    Left alone, Albumentations gives every worker, every epoch and every transform of a pipeline the
    same random numbers: two flips with p=0.5 would always happen together. Here all transforms of a
    pipeline draw from one generator, seeded anew for every image.

    Args:
        transforms: Albumentations transforms, applied in order.

    Attributes:
        min_side: Pixels of the shorter side of an image that a training makes use of; None where
            the transforms need every pixel.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(0))
        self._random = random.Random(0)
        self._compose = A.Compose(list(transforms))
        self.min_side = _needed_side(transforms[0]) if transforms else None
        self._compose.set_random_state(self._generator, self._random)

    @property
    def is_random(self) -> bool:
        """Whether one image can come out differently; transforms that are not known count as so."""
        return not all(_is_steady(transform) for transform in self._compose.transforms)

    @property
    def name(self) -> str | None:
        """Equal for pipelines that do the same with equal seeds; None where that is not known."""
        if not all(_is_known(transform) for transform in self._compose.transforms):
            return None  # its code may change
        told = json.dumps(self._compose.to_dict(), sort_keys=True, default=repr)
        return None if " at 0x" in told else told

    def reseed(self, seed: int) -> None:
        """Decide all random numbers of the next image.

        Args:
            seed: At least 0, below 2^64.
        """
        state = int.from_bytes(hashlib.blake2b(seed.to_bytes(8), digest_size=16).digest())
        self._generator.bit_generator.state = {
            "bit_generator": "PCG64", "state": {"state": state, "inc": 1},
            "has_uint32": 0, "uinteger": 0,
        }  # fmt: skip
        self._random.seed(seed)

    def __call__(self, *, image: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        """Transform one image.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            `{"image": (3, H', W')}`: uint8, or float where the transforms normalise.
        """
        return {"image": to_tensor(self._compose(image=image)["image"])}


def preset(name: str, key: str) -> TransformList:
    """The transforms that the name of a preset stands for.

    Args:
        name: light, medium, strong, trivial_augment or rand_augment.
        key: The configuration key that holds it, for the message.

    Raises:
        ConfigError: no such preset.
    """
    return [_instantiated(spec) for spec in transforms_of(name, key)]


def _instantiated(spec: Any) -> Any:
    if not isinstance(spec, dict):
        return spec
    arguments = {name: _instantiated(value) for name, value in spec["init_args"].items()}
    return import_path(spec["class_path"], "class_path")(**arguments)


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
    for transform in transforms:
        if isinstance(transform, RandomResizedCrop):
            transform.fill_in(preprocessing)
    pipeline = Pipeline(transforms)
    if _fixes_size(pipeline, key):
        return pipeline, False
    pipeline = Pipeline([*transforms, *preprocessing_transforms(preprocessing)])
    _fixes_size(pipeline, key)
    return pipeline, True


def preprocessing_transforms(preprocessing: Preprocessing) -> list[A.BasicTransform]:
    """The encoder's resize and centre crop; the network normalises on its device.

    They begin with every pixel of a file: a reduced one would come out otherwise than in timm,
    transformers and an export.
    """
    return [step(preprocessing.to_dict()) for step in (EncoderResize, EncoderCrop)]


def _needed_side(first: A.BasicTransform | A.BaseCompose) -> int | None:
    """How many pixels the first transform needs of an image's shorter side; None for all."""
    if getattr(first, "p", 1.0) < 1.0:
        return None
    if isinstance(first, A.RandomResizedCrop):
        size: tuple[int, int] = first.size
        # The smallest crop, in its flattest shape, is not to be enlarged.
        smallest = math.sqrt(first.scale[0] * min(first.ratio[0], 1 / first.ratio[1]))
        return math.ceil(max(size) / smallest)
    if isinstance(first, A.Resize):
        return _ROOM * int(max(first.height, first.width))
    if isinstance(first, A.SmallestMaxSize | A.LongestMaxSize):
        sides = first.max_size_hw or (first.max_size,)
        flat = [side for item in sides for side in (item if isinstance(item, list) else [item])]
        return _ROOM * int(max(side for side in flat if side is not None))
    return None


class KeepingResize:
    """What an image goes through before it is kept in the on-disk cache.

    Args:
        transforms: The user's list; None is the encoder's own preprocessing, whose resize is then
            done once and for all: what comes from the cache is the same, pixel for pixel.
        preprocessing: The encoder's.
        side: Pixels of the shorter side that the user's transforms shall find; None is the
            encoder's resize. Smaller images stay as they are.

    Attributes:
        name: Equal for resizes that give equal pixels.
        min_side: Pixels of the shorter side that it makes use of; None for every pixel.
    """

    def __init__(
        self, transforms: TransformList | None, preprocessing: Preprocessing, side: int | None
    ) -> None:
        self._local = threading.local()
        self._least = 0
        if transforms is None:
            told = (preprocessing.resize_mode, preprocessing.resize, preprocessing.interpolation)
            self.name = f"{told}"
            self._step: Any = preprocessing_transforms(preprocessing)[0]
        else:
            self._least = side or max(preprocessing.resize)
            self.name = f"shorter side at most {self._least}"
            self._step = A.SmallestMaxSize(max_size=self._least, interpolation=cv2.INTER_AREA)
        self.min_side = _needed_side(self._step)

    @classmethod
    def of_evaluation(
        cls, transforms: TransformList | None, preprocessing: Preprocessing
    ) -> Self | None:
        """The resize that evaluation begins with, whose result it leaves as it is.

        What comes from the cache is then the same, pixel for pixel.

        Args:
            transforms: The user's list for evaluation; None is the encoder's own preprocessing.
            preprocessing: The encoder's.

        Returns:
            None where the list begins with something else: nothing smaller could be kept.
        """
        resize = cls(None, preprocessing, None)
        if transforms is None:
            return resize
        if not transforms or not _is_steady_resize(transforms[0]):
            return None
        resize._step = transforms[0]
        resize.name = json.dumps(transforms[0].to_dict(), sort_keys=True, default=repr)
        return resize

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize (H, W, 3) pixels; several threads may call it at once."""
        if min(image.shape[:2]) <= self._least:
            return image
        if not hasattr(self._local, "transform"):
            self._local.transform = copy.copy(self._step)  # it keeps what it draws in itself
        resized: NDArray[np.uint8] = self._local.transform(image=image)["image"]
        return resized


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


def _is_known(transform: Any) -> bool:
    inner = [*getattr(transform, "transforms", ())]
    inner += [transform.transform] if isinstance(transform, TorchvisionTransform) else []
    library = type(transform).__module__.partition(".")[0]
    return library in ("albumentations", "classifier", "torchvision", "torch") and all(
        map(_is_known, inner)
    )


def _is_steady_resize(transform: Any) -> bool:
    """Whether a transform resizes to a size that is always the same, and once and for all."""
    if type(transform) not in (A.Resize, A.SmallestMaxSize, A.LongestMaxSize):
        return False
    return transform.p == 1.0 and not _draws_size(transform)


def _draws_size(transform: Any) -> bool:
    return isinstance(getattr(transform, "max_size", None), list | tuple)


def _is_steady(transform: Any) -> bool:
    if isinstance(transform, A.Compose | A.Sequential):
        return transform.p == 1.0 and all(map(_is_steady, transform.transforms))
    if _draws_size(transform):
        return False
    places = {getattr(transform, name, "center") for name in ("position", "pad_position")}
    return type(transform) in _STEADY and transform.p == 1.0 and places == {"center"}
