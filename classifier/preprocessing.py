"""The deterministic part of the input: what an encoder expects of every image.

An encoder states it, the data module carries it out, a checkpoint keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "area")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation.

    Args:
        size: Height and width in pixels of what the network sees.
        resize: Height and width in pixels before the centre crop, at least `size`.
        resize_mode: `shortest` scales the shorter side and keeps the aspect ratio, `squash` scales
            both sides, `pad` scales the longer side and pads the shorter one.
        interpolation: nearest, bilinear, bicubic, lanczos or area; for enlarging. Reducing always
            averages over the area that a pixel covers, as an antialiased filter does.
        mean: Per channel (R, G, B), for pixels in [0, 1].
        std: Per channel (R, G, B), for pixels in [0, 1].
    """

    size: tuple[int, int] = (224, 224)
    resize: tuple[int, int] = (256, 256)
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

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
