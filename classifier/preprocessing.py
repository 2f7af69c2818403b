"""The deterministic part of the input: what an encoder expects of every image.

An encoder states it, the data module carries it out, a checkpoint keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

RESIZE_MODES = ("crop", "squash", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "area")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation.

    Args:
        size: Height and width in pixels of what the network sees.
        resize: Height and width in pixels before the centre crop, at least `size`.
        resize_mode: `crop` scales the shorter side and keeps the aspect ratio, `squash` scales
            both sides, `pad` scales the longer side and pads the shorter one.
        interpolation: nearest, bilinear, bicubic, lanczos or area; for enlarging. Reducing always
            averages over the area that a pixel covers, as an antialiased filter does.
        mean: Per channel (R, G, B), for pixels in [0, 1].
        std: Per channel (R, G, B), for pixels in [0, 1].
    """

    size: tuple[int, int] = (224, 224)
    resize: tuple[int, int] = (256, 256)
    resize_mode: str = "crop"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

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
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)
