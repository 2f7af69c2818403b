from __future__ import annotations

import io
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from classifier.data import decoding
from classifier.data.decoding import MAX_PIXELS, BadImageError, decode_image
from classifier.data.jpeg import decode_jpeg

RED = (200, 30, 20)


def corner(file: Path) -> tuple[int, ...]:
    pixels = decode_image(file)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return tuple(int(value) for value in pixels[0, 0])


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 30000, dtype=np.uint16)).save(tmp_path / "x.png")
    assert corner(tmp_path / "x.png") == (117, 117, 117)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("LA", (90, 0), (255, 255, 255)),
        ("LA", (90, 255), (90, 90, 90)),
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_mode_becomes_rgb_over_white(tmp_path: Path, mode: str, colour: Any, expected: Any) -> None:
    Image.new(mode, (4, 4), colour).save(tmp_path / "x.png")
    assert corner(tmp_path / "x.png") == expected


def test_palette_with_transparency_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 0])
    image.save(tmp_path / "x.png", transparency=0)
    assert corner(tmp_path / "x.png") == (255, 255, 255)
    image.save(tmp_path / "y.png")
    assert corner(tmp_path / "y.png") == RED


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    red, green, blue = corner(tmp_path / "x.jpg")
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (30, 20), (0, 0, 0))
    upright.paste(RED, (0, 0, 10, 10))
    turns = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turn = turns[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "x.png"), np.asarray(upright))


def test_first_frame_stands_for_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert corner(tmp_path / "x.gif") == RED


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"just text", "not an image in any format that Pillow reads")],
)
def test_no_image_is_told_in_words(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        decode_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_truncated_file_is_an_error_and_no_half_picture(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / name
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(BadImageError):
        decode_image(file)


def test_bomb_is_refused_before_its_pixels_are_made(tmp_path: Path) -> None:
    width = 15_000
    header = width.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    )
    (tmp_path / "bomb.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(BadImageError, match="more than 100,000,000 pixels"):
        decode_image(tmp_path / "bomb.png")


def test_file_that_is_gone_is_not_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode_image(tmp_path / "gone.png")


def photo(height: int, width: int) -> Image.Image:
    """A smooth picture with some noise, as cameras make them."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-4, 5, (height, width, 3))
    return Image.fromarray((np.asarray(large) + noise).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"subsampling": 0}, {"optimize": True}],
)  # fmt: skip
def test_fast_path_gives_the_pixels_of_pillow(mode: str, options: dict[str, Any]) -> None:
    data = saved(photo(67, 101).convert(mode), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    fast = decode_jpeg(data, None, MAX_PIXELS)
    assert fast is not None
    assert np.array_equal(fast, expected)
    assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_path_turns_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(photo(32, 48), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    fast = decode_jpeg(data, None, MAX_PIXELS)
    assert fast is not None
    assert np.array_equal(fast, expected)


@pytest.mark.parametrize("tag", [b"\0\x09", b"garbage", b""])
def test_damaged_exif_is_no_orientation(tag: bytes) -> None:
    data = saved(photo(32, 48), exif=b"Exif\0\0" + tag)
    assert decode_image(data).shape == (32, 48, 3)


def test_orientation_in_xmp_counts_as_in_pillow() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(photo(32, 48), xmp=xmp)
    assert decode_image(data).shape == (48, 32, 3)


def test_cmyk_jpeg_and_what_is_no_jpeg_are_left_to_pillow() -> None:
    assert decode_jpeg(saved(photo(32, 48).convert("CMYK")), None, MAX_PIXELS) is None
    assert decode_jpeg(b"\xff\xd8\xff\xe0 no picture", None, MAX_PIXELS) is None
    assert decode_jpeg(saved(photo(32, 48)), None, 32 * 48 - 1) is None


def test_animation_that_ends_anywhere_is_whole_or_a_bad_image(tmp_path: Path) -> None:
    frames = [photo(20, 30) for _ in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "x.gif").read_bytes()
    for length in range(0, len(data), 7):
        try:
            assert decode_image(data[:length]).shape == (20, 30, 3)
        except BadImageError as error:
            assert str(error)


def test_damaged_tags_beside_a_whole_picture_do_no_harm() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\xff\xff\xff\xff"
    for mode in ("RGB", "CMYK"):
        assert decode_image(saved(photo(32, 48).convert(mode), exif=exif)).shape == (32, 48, 3)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated_jpeg_with_a_whole_thumbnail_is_an_error(part: float) -> None:
    thumbnail = b"Exif\0\0" + saved(photo(16, 16))
    data = saved(photo(128, 128), exif=thumbnail)
    assert decode_jpeg(data, None, MAX_PIXELS) is not None
    with pytest.raises(BadImageError):
        decode_image(data[: int(len(data) * part)])


@pytest.mark.parametrize(("side", "factor"), [(None, 1), (501, 1), (500, 2), (250, 4), (30, 4)])
def test_large_jpeg_comes_reduced_but_never_below_what_is_needed(
    side: int | None, factor: int
) -> None:
    data = saved(photo(1000, 1600), quality=92)
    assert decode_image(data, side).shape == (1000 // factor, 1600 // factor, 3)


@pytest.mark.parametrize("side", [250, 125])
def test_reduced_jpeg_resized_is_the_whole_one_resized(side: int) -> None:
    data = saved(photo(1000, 1600), quality=92)
    size = (side * 8 // 5, side)
    whole, reduced = (
        cv2.resize(decode_image(data, least), size, interpolation=cv2.INTER_AREA).astype(int)
        for least in (None, 2 * side)
    )
    assert np.abs(whole - reduced).mean() < 1.0
    assert np.abs(whole - reduced).max() <= 12


def test_animation_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    decoding._frames_told[0] = 0
    for _ in range(3):
        decode_image(tmp_path / "x.gif")
    assert [record.message for record in caplog.records] == [
        "animations and files of several pages: the first frame stands for each"
    ]


def test_missing_opencv_is_no_matter_of_luck_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    expected = decode_image(file.getvalue())
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "classifier.data.jpeg", raising=False)
    monkeypatch.setattr(decoding, "_jpeg_decoders", [])
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(decode_image, [file.getvalue()] * 200))
    assert decoding._jpeg_decoders == [None]
    assert all(np.array_equal(pixels, expected) for pixels in found)
