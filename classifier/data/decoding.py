"""From a file to RGB pixels: every odd format is handled once, here."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

IMAGE_EXTENSIONS = frozenset(
    {
        ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
MAX_PIXELS = 100_000_000
BACKGROUND = (255, 255, 255)
_TOO_LARGE = f"the image has more than {MAX_PIXELS:,} pixels"
_HIGH_DEPTH = {"I;16", "I;16B", "I;16L", "I;16N", "I"}

# A truncated file is an error, never a picture that is grey from the middle on.
ImageFile.LOAD_TRUNCATED_IMAGES = False


class BadImageError(OSError):
    """A file that cannot be decoded, with the reason in plain words."""


def decode_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits,
    CMYK and palettes are converted, and the first frame stands for an animation.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        RGB pixels (H, W, 3), uint8.

    Raises:
        BadImageError: not an image, truncated, or more than MAX_PIXELS pixels.
        FileNotFoundError: no such file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(_TOO_LARGE)
                return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (BadImageError, FileNotFoundError):
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(_unidentified(Path(path))) from error
    except Image.DecompressionBombError as error:
        raise BadImageError(_TOO_LARGE) from error
    # Pillow's decoders raise all of these for damaged files.
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImageError(str(error) or type(error).__name__) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _HIGH_DEPTH:
        return _scale_depth(image).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        canvas = Image.new("RGBA", foreground.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, foreground).convert("RGB")
    return image.convert("RGB")


def _scale_depth(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    if image.mode == "I" and values.size and (values.max() > 65535 or values.min() < 0):
        raise BadImageError("32-bit grey values have no known range")
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))


def _unidentified(path: Path) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    return "not an image in any format that Pillow reads"
