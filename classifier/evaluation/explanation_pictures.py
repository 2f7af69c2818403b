"""Pictures of an explanation: the image, and the map of a class laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from classifier.files import replacing

SIDE = 320  # pixels of a panel's longer side
_GAP = 10
_LINE = 22
_STRONGEST = 0.7  # how much of the image the map covers where it is highest
_INK, _PAPER = (34, 34, 34), "white"


def overlaid(image: NDArray[np.uint8], values: NDArray[np.float32]) -> Image.Image:
    """A map over an image: bright where it is high, nothing where it is zero.

    Args:
        image: (H, W, 3).
        values: (H, W) in [0, 1].
    """
    from matplotlib import colormaps

    base = panel(image)
    size = (base.width, base.height)
    scaled = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    high = np.clip(np.asarray(scaled), 0.0, 1.0)
    # The image in grey below, so that its own colours are not taken for those of the map.
    grey = np.asarray(base.convert("L").convert("RGB"), dtype=np.float64)
    share = (_STRONGEST * high)[..., None]
    colours = colormaps["inferno"](0.35 + 0.5 * high)[..., :3] * 255.0
    blended = grey * (1.0 - share) + colours * share
    return Image.fromarray(blended.round().astype(np.uint8))


def panel(image: NDArray[np.uint8]) -> Image.Image:
    """An image (H, W, 3) at the size of a panel; pixels of small images stay sharp squares."""
    picture = Image.fromarray(image)
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, method)


def write_picture(
    file: Path, panels: Sequence[tuple[str, Image.Image]], caption: Sequence[str]
) -> None:
    """Write panels side by side, each below its heading, with a caption below all.

    Args:
        file: A PNG file.
        panels: (heading, picture) each.
        caption: Lines of text; too long ones lose their middle.
    """
    font = _font()
    width = len(panels) * (SIDE + _GAP) + _GAP
    height = max(picture.height for _, picture in panels)
    lines = [_fitted(line, font, width - 2 * _GAP) for line in caption]
    total = _LINE + height + _LINE * len(lines) + 3 * _GAP
    canvas = Image.new("RGB", (width, total), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (heading, picture) in enumerate(panels):
        left = _GAP + number * (SIDE + _GAP)
        draw.text((left, _GAP), _fitted(heading, font, SIDE), fill=_INK, font=font)
        canvas.paste(picture, (left, _LINE + _GAP))
    for number, line in enumerate(lines):
        top = _LINE + height + 2 * _GAP + number * _LINE
        draw.text((_GAP, top), line, fill=_INK, font=font)
    with replacing(file) as temporary:
        canvas.save(temporary, format="PNG")


def _font() -> Any:
    from matplotlib.font_manager import findfont

    # It knows more letters than the font that Pillow brings along.
    return ImageFont.truetype(findfont("DejaVu Sans"), size=14)


def _fitted(text: str, font: Any, width: int) -> str:
    """A text in one line of at most so many pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2:
        keep -= 1
        half = keep // 2
        shorter = f"{text[: keep - half]}…{text[len(text) - half :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return text[:1]
