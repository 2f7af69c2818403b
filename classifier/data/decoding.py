"""From a file to RGB pixels: every odd format is handled here, ordinary JPEG files in jpeg.py."""

from __future__ import annotations

import io
import logging
import mmap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    {
        ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
MAX_PIXELS = 100_000_000
_JPEG_START = b"\xff\xd8\xff"
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
TOO_LARGE = f"the image has more than {MAX_PIXELS:,} pixels"
_HIGH_DEPTH = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
# Shared with the processes that are forked from this one: they tell of a thing once together.
_frames_told = mmap.mmap(-1, 1)

_looking = threading.Lock()
_jpeg_decoders: list[Callable[..., NDArray[np.uint8] | None] | None] = []  # once it was looked for

# A truncated file is an error, never a picture that is grey from the middle on.
ImageFile.LOAD_TRUNCATED_IMAGES = False


class BadImageError(OSError):
    """A file that cannot be decoded, with the reason in plain words."""


def decode_image(
    source: str | Path | bytes, min_side: int | None = None, background: Colour = WHITE
) -> NDArray[np.uint8]:
    """Decode an image file.

    EXIF orientation is applied, transparency laid over a colour, 16-bit grey scaled to 8 bits, CMYK
    and palettes are converted, and the first frame stands for an animation.

    Args:
        source: A file in any format that Pillow reads, or its bytes.
        min_side: A JPEG file may come reduced by 2 or 4, its shorter side never below so many
            pixels, which is for training; None decodes every pixel.
        background: What shows through where an image is transparent: (R, G, B), 0 to 255.

    Returns:
        RGB pixels (H, W, 3), uint8.

    Raises:
        BadImageError: not an image, truncated, or more than MAX_PIXELS pixels.
        FileNotFoundError: no such file.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        pixels = _decode_with_opencv(data, min_side) if data[:3] == _JPEG_START else None
        return _decode_with_pillow(data, background) if pixels is None else pixels
    except (BadImageError, FileNotFoundError):
        raise
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error


def _decode_with_opencv(data: bytes, min_side: int | None) -> NDArray[np.uint8] | None:
    """An ordinary JPEG file, faster; None where Pillow shall look at it, which gives the same."""
    decode = _jpeg_decoder()
    return None if decode is None else decode(data, min_side, MAX_PIXELS)


def _jpeg_decoder() -> Callable[..., NDArray[np.uint8] | None] | None:
    """OpenCV's; None where it is not installed, as beside an exported model it may be.

    One thread looks for it: a second one would find a module whose import is about to fail.
    """
    with _looking:
        if not _jpeg_decoders:
            try:
                from classifier.data.jpeg import decode_jpeg
            except ImportError as error:
                log.debug("JPEG files are decoded by Pillow: %s", error)
                _jpeg_decoders.append(None)
            else:
                _jpeg_decoders.append(decode_jpeg)
        return _jpeg_decoders[0]


def _decode_with_pillow(data: bytes, background: Colour) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd is reported by --check
            know_all_formats()
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(TOO_LARGE)
                if getattr(image, "is_animated", False):
                    _tell_of_frames()
                return rgb_pixels(image, background)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "not an image in any format that Pillow reads" if data else "the file is empty"
        raise BadImageError(reason) from error
    except Image.DecompressionBombError as error:
        raise BadImageError(TOO_LARGE) from error
    # Damaged files bring Pillow's decoders to errors of every kind: IndexError, struct.error ...
    except Exception as error:
        raise BadImageError(str(error) or type(error).__name__) from error


def know_all_formats() -> None:
    """Have Pillow import its readers of rare formats, before it opens a file.

    It would do so by itself at the first such file. Of two threads that have one at the same time,
    the later is told that there is no such format.
    """
    Image.init()


def stated_size(data: bytes, formats: tuple[str, ...]) -> tuple[int, int]:
    """Width and height that an image file states, read from its header alone.

    Args:
        data: The file's bytes.
        formats: Pillow's names of the formats that are read; every other one is refused.

    Raises:
        BadImageError: none of these formats, or a damaged header.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            know_all_formats()
            known = [name for name in formats if name in Image.OPEN]  # as Pillow was built
            with Image.open(io.BytesIO(data), formats=known) as image:
                return image.size
    except UnidentifiedImageError as error:
        raise BadImageError("not an image in any format that is accepted") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(TOO_LARGE) from error
    except Exception as error:
        raise BadImageError(str(error) or type(error).__name__) from error


def rgb_pixels(image: Image.Image, background: Colour = WHITE) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3), uint8, upright, of an image that Pillow has opened.

    Raises:
        BadImageError: pixels without a known range.
    """
    return np.asarray(_to_rgb(_upright(image), background))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a damaged picture is an error, a damaged tag beside it is no tag
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _tell_of_frames() -> None:
    if _frames_told[0] == 0:
        _frames_told[0] = 1
        log.warning("animations and files of several pages: the first frame stands for each")


def _to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    if image.mode in _HIGH_DEPTH:
        return _scale_depth(image).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        canvas = Image.new("RGBA", foreground.size, (*background, 255))
        return Image.alpha_composite(canvas, foreground).convert("RGB")
    return image.convert("RGB")


def _scale_depth(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    if image.mode == "I" and values.size and (values.max() > 65535 or values.min() < 0):
        raise BadImageError("32-bit grey values have no known range")
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))
