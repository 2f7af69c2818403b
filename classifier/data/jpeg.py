"""The fast way through ordinary JPEG files, pixel for pixel what Pillow gives.

Both libraries carry libjpeg-turbo. OpenCV spends less around it, but it tells of no truncated
file, and reads some headers otherwise: what is not ordinary is left to Pillow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_END = b"\xff\xd9"
_BASELINE_EXTENDED_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
_SCAN = 0xDA
_APP1 = 0xE1
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_ORIENTATION = 274
# By 8 the file's own blocks would become pixels, which shows.
_REDUCED = ((4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


@dataclass
class _Header:
    width: int = 0
    height: int = 0
    orientation: int = 1
    has_exif: bool = False
    scan: int = 0  # where the picture's data begin
    is_ordinary: bool = True


def decode_jpeg(data: bytes, min_side: int | None, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a whole, ordinary JPEG file.

    Args:
        data: The file.
        min_side: Pixels of the shorter side that are needed; the result has at least as many, or
            all that the file has. None decodes every pixel.
        max_pixels: Larger pictures are not decoded.

    Returns:
        RGB pixels (H, W, 3), uint8, turned upright; None where Pillow shall look at the file.
    """
    header = _read_header(data)
    if not header.is_ordinary or header.width * header.height > max_pixels:
        return None
    if data.rfind(_END, header.scan) < 0:
        return None  # truncated
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if min_side is not None:
        shorter = min(header.width, header.height)
        for factor, flag in _REDUCED:
            if shorter >= factor * min_side:
                flags |= flag & ~cv2.IMREAD_COLOR_BGR
                break
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if pixels is None:
        return None
    return _turned(pixels.astype(np.uint8, copy=False), header.orientation)


def _read_header(data: bytes) -> _Header:
    """Size and orientation; not ordinary where anything is unusual."""
    header = _Header()
    for marker, start, end in _segments(data):
        if marker in _BASELINE_EXTENDED_PROGRESSIVE and end - start >= 6:
            header.height = int.from_bytes(data[start + 1 : start + 3], "big")
            header.width = int.from_bytes(data[start + 3 : start + 5], "big")
            header.is_ordinary &= data[start] == 8 and data[start + 5] in (1, 3)
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            header.is_ordinary = False  # lossless, hierarchical or arithmetic
        elif marker == _APP1 and data[start : start + 6] == b"Exif\0\0" and not header.has_exif:
            header.has_exif = True  # of several the first counts
            header.orientation = _orientation(data[start:end])
        elif marker == _APP1 and b"Orientation" in data[start:end]:
            header.is_ordinary = False  # XMP
        elif marker == _SCAN:
            header.scan = end
    header.is_ordinary &= header.scan > 0 and header.width > 0 and header.height > 0
    return header


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if end > len(data):
            return
        yield marker, place + 4, end
        if marker == _SCAN:
            return
        place = end


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags.load(exif)
            found = tags.get(_ORIENTATION, 1)
    except Exception:
        return 1  # a damaged tag is no tag, whatever Pillow finds wrong with it
    return found if found in range(1, 9) else 1


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo how the camera was held. Source: CIPA DC-008, Exif 2.32, tag 274."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
