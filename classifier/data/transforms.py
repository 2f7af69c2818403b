"""Transforms of this program among those of Albumentations, as pipelines use them."""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch

from classifier.preprocessing import Pixels, Preprocessing


def to_tensor(image: Any) -> torch.Tensor:
    """(H, W, 3) array -> (3, H, W) tensor of the same type; a tensor stays as it is."""
    if isinstance(image, torch.Tensor):
        return image
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    if image.ndim != 3 or image.shape[2] != 3:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    planes = np.empty((3, *image.shape[:2]), dtype=image.dtype)
    cv2.split(image, list(planes))  # five times as fast as a transposed copy
    return torch.from_numpy(planes)


class _OfPreprocessing(A.ImageOnlyTransform):  # type: ignore[misc]
    """A step of the encoder's own preprocessing.

    Args:
        preprocessing: The encoder's, as plain data.
    """

    def __init__(self, preprocessing: dict[str, Any]) -> None:
        super().__init__(p=1.0)
        self.preprocessing = preprocessing
        self._steps = Preprocessing.from_dict(preprocessing)


class EncoderResize(_OfPreprocessing):
    """The encoder's resize."""

    def apply(self, img: Pixels, **_: Any) -> Pixels:
        """Resize (H, W, 3) pixels."""
        return self._steps.scale(img)


class EncoderCrop(_OfPreprocessing):
    """The encoder's centre crop, and its padding."""

    def apply(self, img: Pixels, **_: Any) -> Pixels:
        """Crop (H, W, 3) pixels."""
        return self._steps.crop(img)


class RandomResizedCrop(A.RandomResizedCrop):  # type: ignore[misc]
    """albumentations.RandomResizedCrop to the size that the encoder takes.

    Crops of more than four times that area are first halved by averaging, against aliasing.

    Args:
        scale: Smallest and largest part of the image's area, in (0, 1].
        ratio: Smallest and largest ratio of width to height.
        size: Height and width in pixels; null is the encoder's.
        p: How often, in [0, 1]; at all other times the image stays as it is.

    Source: Szegedy et al., Going deeper with convolutions, 2015.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        size: tuple[int, int] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(size or (224, 224), scale, ratio, p=p)
        self._is_open = size is None

    def fill_in(self, preprocessing: Preprocessing) -> None:
        """Take the encoder's size where the user left it open."""
        if self._is_open:
            self.size = preprocessing.size

    def apply(self, img: Pixels, crop_coords: tuple[int, int, int, int], **_: Any) -> Pixels:
        """Crop and resize (H, W, 3) pixels."""
        left, top, right, bottom = crop_coords
        height, width = self.size
        crop = img[top:bottom, left:right]
        while crop.shape[0] * crop.shape[1] > 4 * height * width:
            rows, columns = crop.shape[0] // 2, crop.shape[1] // 2
            even = crop[: 2 * rows, : 2 * columns]
            crop = cv2.resize(even, (columns, rows), interpolation=cv2.INTER_AREA)
        resized = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, dtype=np.uint8)


class TorchvisionTransform(A.ImageOnlyTransform):  # type: ignore[misc]
    """A transform of torchvision among those of Albumentations: RandAugment, TrivialAugmentWide ...

    Args:
        transform: A class of torchvision.transforms.v2 that takes uint8 images.
        p: How often, in [0, 1].
    """

    def __init__(self, transform: torch.nn.Module, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.transform = transform

    def get_params(self) -> dict[str, Any]:
        """The seed of one image."""
        return {"seed": self.py_random.getrandbits(63)}

    def apply(self, img: Pixels, seed: int = 0, **_: Any) -> Pixels:
        """Transform (H, W, 3) pixels with random numbers of their own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image: torch.Tensor = self.transform(to_tensor(img))
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
