"""Steps of evaluation that a user wrote in place of the encoder's own: pixels to pixels, in numpy.

They do what the transforms of Albumentations do, pixel for pixel, on machines that have neither
Albumentations nor OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from classifier.errors import RunError
from classifier.opencv_resize import Pixels, resize

RULES = ("squash", "cover", "fit")
# By numpy's names; cv2.BORDER_REFLECT is symmetric, cv2.BORDER_REFLECT_101 reflect.
BORDERS = ("constant", "edge", "symmetric", "wrap", "reflect")
# Where an image lies that is padded: how much of the padding is above it, and how much left of it.
POSITIONS = {
    "center": (0.5, 0.5), "top_left": (0.0, 0.0), "top_right": (0.0, 1.0),
    "bottom_left": (1.0, 0.0), "bottom_right": (1.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Resize by OpenCV's arithmetic.

    Args:
        height: In pixels, at least 1; None, but not for squash, leaves it to the width.
        width: In pixels, at least 1; None, but not for squash, leaves it to the height.
        rule: `squash` scales both sides; the others keep the aspect ratio: `cover` leaves no side
            shorter than it is said, `fit` none longer.
        interpolation: nearest, linear, area or lanczos4.
        shrinking: The interpolation of an image that shrinks.
    """

    height: int | None
    width: int | None
    rule: str = "squash"
    interpolation: str = "linear"
    shrinking: str = "linear"

    def __call__(self, pixels: Pixels) -> Pixels:
        """Resize (H, W, 3) pixels."""
        height, width = pixels.shape[:2]
        size = self.size_of(height, width)
        shrinks = size[0] < height or size[1] < width
        return resize(pixels, *size, self.shrinking if shrinks else self.interpolation)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this height and width comes to."""
        if self.rule == "squash":
            assert self.height is not None and self.width is not None
            return self.height, self.width
        pairs = ((self.height, height), (self.width, width))
        ratios = [wanted / side for wanted, side in pairs if wanted is not None]
        ratio = max(ratios) if self.rule == "cover" else min(ratios)
        return max(1, round(height * ratio)), max(1, round(width * ratio))


@dataclass(frozen=True)
class Crop:
    """The centre of an image.

    Args:
        height: In pixels, at least 1.
        width: In pixels, at least 1.
    """

    height: int
    width: int

    def __call__(self, pixels: Pixels) -> Pixels:
        """Crop (H, W, 3) pixels.

        Raises:
            RunError: the image is smaller.
        """
        height, width = pixels.shape[:2]
        self.size_of(height, width)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        return pixels[top : top + self.height, left : left + self.width]

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this height and width comes to.

        Raises:
            RunError: the image is smaller.
        """
        if height < self.height or width < self.width:
            raise RunError(
                f"an image of {height} x {width} pixels is smaller than the crop of "
                f"{self.height} x {self.width}"
            )
        return self.height, self.width


@dataclass(frozen=True)
class Pad:
    """Pixels around an image that is too small.

    Args:
        height: That it has at least; None where `height_divisor` says it.
        width: That it has at least; None where `width_divisor` says it.
        height_divisor: That its height is a multiple of, at least 1.
        width_divisor: That its width is a multiple of, at least 1.
        position: Of the image: center, top_left, top_right, bottom_left or bottom_right.
        border: constant, or what is repeated: edge, symmetric, wrap or reflect.
        fill: The colour of a constant border: (R, G, B), 0 to 255.
    """

    height: int | None
    width: int | None
    height_divisor: int | None = None
    width_divisor: int | None = None
    position: str = "center"
    border: str = "constant"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Pad (H, W, 3) pixels."""
        height, width = pixels.shape[:2]
        around = []
        for missing, part in zip(
            self._missing(height, width), POSITIONS[self.position], strict=True
        ):
            before = int(missing * part)
            around.append((before, missing - before))
        if self.border != "constant":
            return np.pad(pixels, [*around, (0, 0)], self.border)  # type: ignore[call-overload,no-any-return]
        top, left = around[0][0], around[1][0]
        canvas = np.empty((*self.size_of(height, width), 3), np.uint8)
        canvas[:] = self.fill
        canvas[top : top + height, left : left + width] = pixels
        return canvas

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this height and width comes to."""
        rows, columns = self._missing(height, width)
        return height + rows, width + columns

    def _missing(self, height: int, width: int) -> tuple[int, int]:
        def missing(side: int, least: int | None, divisor: int | None) -> int:
            return max(0, least - side) if least is not None else -side % (divisor or 1)

        return (
            missing(height, self.height, self.height_divisor),
            missing(width, self.width, self.width_divisor),
        )


Step = Scale | Crop | Pad
_KINDS: dict[str, type[Step]] = {kind.__name__: kind for kind in (Scale, Crop, Pad)}


def to_plain(step: Step) -> dict[str, Any]:
    """A step as plain data, for a checkpoint or an export."""
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(step).items()}
    return {"step": type(step).__name__, **values}


def from_plain(values: Mapping[str, Any]) -> Step:
    """The inverse of `to_plain`.

    Raises:
        KeyError: a step that this version does not know.
    """
    plain: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key != "step"
    }
    return _KINDS[values["step"]](**plain)
