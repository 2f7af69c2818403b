"""The deterministic part of the input: what an encoder expects of every image.

An encoder states it, the data module and the Predictor carry it out, a checkpoint and an export
keep it. Pixels are resized by Pillow, as timm and transformers do it, so that an encoder sees what
it was trained on, and every library what this one sees. The steps of a user's own, where there are
any, come before, and are Albumentations'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from classifier.image_steps import Step, from_plain, to_plain
from classifier.opencv_resize import Pixels as Pixels  # what other modules know it by

RESIZE_MODES = ("crop", "squash", "pad")
# By Pillow's names: each is an attribute of PIL.Image.Resampling in capitals.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation.

    Args:
        size: Height and width in pixels of what the network sees.
        resize: Height and width in pixels before the centre crop, at least `size`.
        resize_mode: `crop` scales the shorter side and keeps the aspect ratio, `squash` scales
            both sides, `pad` scales the longer side and pads the shorter one with `mean`.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming: Pillow's filters, which
            take the mean over more pixels the more an image shrinks.
        mean: Per channel (R, G, B), for pixels in [0, 1].
        std: Per channel (R, G, B), for pixels in [0, 1].
        crop_offset: Where the crop begins when half a pixel is left over: `even` is the even
            neighbour, as in torchvision and timm, `down` the smaller one, as in transformers.
        steps: What a user wrote for evaluation, done before all else; `size` and `resize` are what
            it comes to, where it leaves all images at one size.
    """

    size: tuple[int, int] = (224, 224)
    resize: tuple[int, int] = (256, 256)
    resize_mode: str = "crop"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop_offset: str = "even"
    steps: tuple[Step, ...] = ()

    def in_mode(self, resize_mode: str) -> Preprocessing:
        """The same with another resize_mode; squash and pad show the whole image."""
        resize = self.resize if resize_mode == "crop" else self.size
        return replace(self, resize_mode=resize_mode, resize=resize)

    def at_size(self, size: tuple[int, int]) -> Preprocessing:
        """The same for another size; the part of an image that the crop shows stays.

        Args:
            size: Height and width in pixels of what the network sees.
        """
        (height, width), (old_height, old_width) = self.resize, self.size
        resize = round(size[0] * height / old_height), round(size[1] * width / old_width)
        return replace(self, size=size, resize=resize)

    def normalised(
        self, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> Preprocessing:
        """The same with another normalisation.

        Args:
            mean: Per channel (R, G, B), for pixels in [0, 1].
            std: Per channel (R, G, B), for pixels in [0, 1].
        """
        return replace(self, mean=mean, std=std)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a checkpoint."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        plain["steps"] = [to_plain(step) for step in self.steps]
        return plain if self.steps else {k: v for k, v in plain.items() if k != "steps"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        steps = tuple(from_plain(step) for step in plain.pop("steps", ()))
        return cls(**plain, steps=steps)

    # What is done to an image

    def prepare(self, pixels: Pixels) -> Pixels:
        """An image as the network sees it, but for the normalisation.

        Args:
            pixels: RGB (H, W, 3), uint8.

        Returns:
            (height, width, 3) of `size`, uint8.
        """
        for step in self.steps:
            pixels = step(pixels)
        return self.crop(self.scale(pixels))

    def scale(self, pixels: Pixels) -> Pixels:
        """The encoder's own resize in `prepare`: RGB pixels (H, W, 3), uint8, resized."""
        height, width = self._scaled_size(*pixels.shape[:2])
        if pixels.shape[:2] == (height, width):
            return pixels
        from PIL import Image

        resampling = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((width, height), resampling))

    def crop(self, pixels: Pixels) -> Pixels:
        """The encoder's own crop in `prepare`: the centre of pixels, padded where they end."""
        height, width = self.size
        short = [max(0, side - have) for side, have in zip(self.size, pixels.shape, strict=False)]
        if any(short):
            canvas = np.empty((*np.add(pixels.shape[:2], short), 3), np.uint8)
            canvas[:] = self._fill()
            top, left = short[0] // 2, short[1] // 2
            canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            pixels = canvas
        top, left = self._offset(pixels.shape[0] - height), self._offset(pixels.shape[1] - width)
        return pixels[top : top + height, left : left + width]

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image of this height and width is resized."""
        to_height, to_width = self.resize
        if self.resize_mode == "squash":
            return self.resize
        if self.resize_mode == "crop" and to_height == to_width:
            # As torchvision's and transformers' resize cut off the fraction.
            longer = int(to_height * max(height, width) / min(height, width))
            return (longer, to_width) if height > width else (to_height, longer)
        ratios = height / to_height, width / to_width
        ratio = min(ratios) if self.resize_mode == "crop" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _fill(self) -> tuple[int, ...]:
        """What pads an image: black, or in the mode pad the mean, which normalises to 0."""
        if self.resize_mode != "pad":
            return 0, 0, 0
        return tuple(round(255 * value) for value in self.mean)

    def _offset(self, margin: int) -> int:
        return margin // 2 if self.crop_offset == "down" else round(margin / 2)
