"""cv2.resize in numpy, against OpenCV itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.opencv_resize import INTERPOLATIONS, Pixels, resize

SIDES = st.integers(1, 150)


def noise(height: int, width: int) -> Pixels:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_opencv(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    flag = getattr(cv2, f"INTER_{interpolation.upper()}")
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=flag))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(before=st.tuples(SIDES, SIDES), after=st.tuples(SIDES, SIDES))
@settings(max_examples=60, deadline=None)
def test_resize_equals_that_of_opencv(
    interpolation: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    pixels = noise(*before)
    expected = by_opencv(pixels, *after, interpolation)
    np.testing.assert_array_equal(resize(pixels, *after, interpolation), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(after=st.tuples(SIDES, SIDES), factors=st.tuples(st.integers(1, 5), st.integers(1, 5)))
@settings(max_examples=40, deadline=None)
def test_resize_by_whole_factors_equals_that_of_opencv(
    interpolation: str, after: tuple[int, int], factors: tuple[int, int]
) -> None:
    height, width = after
    small = height % 40 + 1, width % 40 + 1
    pixels = noise(small[0] * factors[0], small[1] * factors[1])
    expected = by_opencv(pixels, *small, interpolation)
    np.testing.assert_array_equal(resize(pixels, *small, interpolation), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(224, 224), (299, 301)])
def test_resize_of_a_photograph_equals_that_of_opencv(
    interpolation: str, size: tuple[int, int]
) -> None:
    rows, columns = np.mgrid[0:487, 0:650]
    waves = [127 + 120 * np.sin(rows / (7 + c)) * np.cos(columns / (11 - c)) for c in range(3)]
    pixels = np.stack(waves, axis=2).astype(np.uint8)
    expected = by_opencv(pixels, *size, interpolation)
    np.testing.assert_array_equal(resize(pixels, *size, interpolation), expected)


def test_resize_keeps_an_image_of_the_right_size() -> None:
    pixels = noise(20, 30)
    assert resize(pixels, 20, 30, "area") is pixels
