"""cv2.resize of uint8 pixels, in numpy: equal pixels on machines that have no OpenCV.

OpenCV computes on its own number formats: weights in steps of 1/2048, sums cut off in the middle,
single precision for areas. All of that shows in the last bit of a pixel, so it is repeated here.

Source: OpenCV 5.0, modules/imgproc/src/resize.cpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

# linear stands for cv2.INTER_LINEAR. cubic is not among them: where it can, OpenCV leaves it to a
# library of Intel's, and its pixels are other ones there than elsewhere.
INTERPOLATIONS = ("nearest", "linear", "area", "lanczos4")
_STEPS = 2048  # of a weight
_BITS = 22  # of two weights, multiplied
_EPSILON = float(np.finfo(np.float64).eps)
_ROWS = 64  # at a time: they stay in the processor's cache, a tenth of the time of all at once
_LEAST_PART = 1e-3  # a smaller part of a pixel does not count for an area


def resize(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Resize an image as cv2.resize does.

    Args:
        pixels: (H, W, 3) uint8.
        height: Of the result, at least 1.
        width: Of the result, at least 1.
        interpolation: nearest, linear, area or lanczos4.

    Returns:
        (height, width, 3) uint8.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    vertical, horizontal = _Axis(pixels.shape[0], height), _Axis(pixels.shape[1], width)
    if interpolation == "nearest":
        return pixels[vertical.nearest()[:, None], horizontal.nearest()]
    whole = vertical.factor is not None and horizontal.factor is not None
    halves = whole and vertical.factor == horizontal.factor == 2
    if interpolation == "linear" and halves:
        interpolation = "area"
    if interpolation == "area" and vertical.scale >= 1 and horizontal.scale >= 1:
        return _mean(pixels, vertical, horizontal) if whole else _area(pixels, vertical, horizontal)
    return _interpolated(pixels, vertical, horizontal, interpolation)


class _Axis:
    """One side of an image, from so many pixels to so many."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after
        self.inverse = after / before
        self.scale = 1.0 / self.inverse
        nearest = round(self.scale)
        self.factor = nearest if abs(self.scale - nearest) < _EPSILON else None

    def nearest(self) -> Integers:
        """The pixel that each new one is a copy of."""
        places = np.floor(np.arange(self.after) * self.scale).astype(np.int64)
        return np.asarray(np.minimum(places, self.before - 1))

    def between(self) -> tuple[Integers, Floats]:
        """The pixel before the middle of each new one, and how far behind it that lies, 0 to 1."""
        middle = ((np.arange(self.after) + 0.5) * self.scale - 0.5).astype(np.float32)
        place = np.floor(middle)
        return place.astype(np.int64), middle - place

    def enlarged(self) -> tuple[Integers, Floats]:
        """The same for an area where there is less than a pixel of it."""
        new = np.arange(self.after)
        place = np.floor(new * self.scale)
        part = ((new + 1) - (place + 1) * self.inverse).astype(np.float32)
        part = np.where(part <= 0, np.float32(0), part - np.floor(part))
        return place.astype(np.int64), part

    def areas(self) -> tuple[Integers, Floats]:
        """The pixels that each new one covers, and their weights, both (after, K); 0 fills up."""
        begin = np.arange(self.after) * self.scale
        end = begin + self.scale
        length = np.minimum(self.scale, self.before - begin)
        last = np.minimum(np.floor(end).astype(np.int64), self.before - 1)
        first = np.minimum(np.ceil(begin).astype(np.int64), last)
        before = first - begin
        behind = end - last
        places = first[:, None] - 1 + np.arange(int((last - first).max()) + 2)
        weights = np.where(places < last[:, None], 1.0 / length[:, None], 0.0)
        weights[:, 0] = np.where(before > _LEAST_PART, before / length, 0.0)
        part = np.minimum(np.minimum(behind, 1.0), length) / length
        column = last - first + 1
        weights[np.arange(self.after), column] = np.where(behind > _LEAST_PART, part, 0.0)
        return np.clip(places, 0, self.before - 1), weights.astype(np.float32)


def _mean(pixels: Pixels, vertical: _Axis, horizontal: _Axis) -> Pixels:
    """Areas of whole pixels."""
    rows, columns = vertical.factor or 1, horizontal.factor or 1
    blocks = pixels.reshape(vertical.after, rows, horizontal.after, columns, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.int32)
    if rows == columns == 2:
        return np.asarray((total + 2) >> 2, np.uint8)
    return _rounded(total.astype(np.float32) * (np.float32(1) / np.float32(rows * columns)))


def _area(pixels: Pixels, vertical: _Axis, horizontal: _Axis) -> Pixels:
    """Areas that cut through pixels; the order of the additions is OpenCV's."""
    columns, weights = horizontal.areas()
    lines = np.empty((vertical.before, horizontal.after, 3), np.float32)
    for start in range(0, vertical.before, _ROWS):
        turned = np.ascontiguousarray(pixels[start : start + _ROWS].transpose(1, 2, 0))
        some = np.zeros((horizontal.after, *turned.shape[1:]), np.float32)
        for tap in range(columns.shape[1]):
            some += turned.take(columns[:, tap], axis=0) * weights[:, tap, None, None]
        lines[start : start + _ROWS] = some.transpose(2, 0, 1)
    rows, weights = vertical.areas()
    total = np.zeros((vertical.after, horizontal.after, 3), np.float32)
    for tap in range(rows.shape[1]):
        total += lines[rows[:, tap]] * weights[:, tap, None, None]
    return _rounded(total)


def _interpolated(pixels: Pixels, vertical: _Axis, horizontal: _Axis, interpolation: str) -> Pixels:
    """A weighted sum over 2 or 8 pixels on each axis, in whole numbers."""
    linear = interpolation in ("linear", "area")
    steps = [
        axis.enlarged() if interpolation == "area" else axis.between()
        for axis in (vertical, horizontal)
    ]
    if linear:
        place, part = steps[1]
        outside = (place < 0) | (place >= horizontal.before - 1)
        steps[1] = np.clip(place, 0, horizontal.before - 1), np.where(outside, 0, part)
    (rows, weights), (columns, across) = (
        (_taps(place, axis.before, interpolation), _weights(part, interpolation))
        for (place, part), axis in zip(steps, (vertical, horizontal), strict=True)
    )
    lines = [_line(pixels[rows[:, tap]], columns, across) for tap in range(rows.shape[1])]
    return _linear_sum(lines, weights) if linear else _sum(lines, weights)


def _taps(place: Integers, before: int, interpolation: str) -> Integers:
    """The pixels (after, K) that count; the border is repeated."""
    number = 8 if interpolation == "lanczos4" else 2
    taps = place[:, None] + np.arange(number) - number // 2 + 1
    return np.asarray(np.clip(taps, 0, before - 1))


def _weights(part: Floats, interpolation: str) -> NDArray[np.int32]:
    """The weights (after, K) of these pixels, in steps of 1/2048."""
    if interpolation == "lanczos4":
        weights = _lanczos_weights(part)
    else:
        weights = np.stack([np.float32(1) - part, part], axis=1)
    steps: NDArray[np.int32] = np.rint(weights * np.float32(_STEPS)).astype(np.int32)
    return steps


def _lanczos_weights(part: Floats) -> Floats:
    half = np.sqrt(0.5)
    sines = [1, -half, 0, half, -1, half, 0, -half]
    cosines = [0, -half, 1, -half, 0, half, -1, half]
    angle = -(part + np.float32(3)).astype(np.float64) * np.pi * 0.25
    weights = np.empty((len(part), 8), np.float32)
    for tap in range(8):
        distance = part + np.float32(3) - np.float32(tap)
        at_pixel = np.abs(distance) < np.float32(1e-6)
        y = np.where(at_pixel, 1.0, -distance.astype(np.float64) * np.pi * 0.25)
        value = (sines[tap] * np.sin(angle) + cosines[tap] * np.cos(angle)) / (y * y)
        weights[:, tap] = np.where(at_pixel, 1e30, value)
    total = np.zeros(len(part), np.float32)
    for tap in range(8):
        total += weights[:, tap]
    return weights * (np.float32(1) / total)[:, None]


def _line(rows: Pixels, columns: Integers, weights: NDArray[np.int32]) -> NDArray[np.int32]:
    """Rows (H, W, 3) resized on the horizontal axis alone, in steps of 1/2048."""
    total = np.zeros((rows.shape[0], len(columns), 3), np.int32)
    for tap in range(columns.shape[1]):
        total += rows.take(columns[:, tap], axis=1) * weights[:, tap, None]
    return total


def _linear_sum(lines: list[NDArray[np.int32]], weights: NDArray[np.int32]) -> Pixels:
    """Two lines, cut off after each step, as 16 bits hold no more."""
    first, second = (
        ((line >> 4) * weights[:, tap, None, None]) >> 16 for tap, line in enumerate(lines)
    )
    return ((first + second + 2) >> 2).astype(np.uint8)


def _sum(lines: list[NDArray[np.int32]], weights: NDArray[np.int32]) -> Pixels:
    """Lines in whole numbers."""
    total = np.full(lines[0].shape, 1 << (_BITS - 1), np.int32)
    for tap, line in enumerate(lines):
        total += line * weights[:, tap, None, None]
    return np.asarray(np.clip(total >> _BITS, 0, 255), np.uint8)


def _rounded(values: Floats) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
