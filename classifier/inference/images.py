"""Images of every kind, decoded and prepared in threads, one batch ahead of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from classifier.cores import usable_cores
from classifier.data.decoding import BadImageError, Colour, decode_image, rgb_pixels
from classifier.errors import ConfigError
from classifier.preprocessing import Pixels

T = TypeVar("T")
R = TypeVar("R")

KEY = "images"
_TAKES = "Give a path, an RGB array (H, W, 3) of uint8, a PIL image, or a list of these"


def is_single(images: Any) -> bool:
    """Whether this is one image; else it should be several.

    Args:
        images: As the user gave them.
    """
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, str | os.PathLike | bytes | Image.Image)


def as_images(images: Any) -> Iterable[Any]:
    """What the user gave as something that can be gone through.

    Args:
        images: One image, or an iterable of them; an array (N, H, W, 3) is one, too.

    Raises:
        ConfigError: neither.
    """
    if is_single(images):
        return (images,)
    if not isinstance(images, Iterable):
        raise ConfigError(KEY, "is no image", got=type(images).__name__, remedy=_TAKES)
    return images


def pixels_of(image: Any, background: Colour) -> Pixels:
    """RGB pixels (H, W, 3), uint8, upright, of an image of any kind.

    Args:
        image: A path, the bytes of an image file, an array of uint8 (H, W, 3), (H, W) grey or
            (H, W, 4) with transparency, or a PIL image.
        background: What shows through where an image is transparent: (R, G, B), 0 to 255.

    Raises:
        BadImageError: it cannot be decoded; names the file.
        FileNotFoundError: no such file.
        ConfigError: no image, or an array whose numbers could mean several things.
    """
    if isinstance(image, np.ndarray):
        return _of_array(image, background)
    if isinstance(image, Image.Image):
        return _named(getattr(image, "filename", "") or "image", rgb_pixels, image, background)
    if isinstance(image, bytes):
        return decode_image(image, background=background)
    if not isinstance(image, str | os.PathLike):
        raise ConfigError(KEY, "is no image", got=type(image).__name__, remedy=_TAKES)
    path = Path(image)
    if path.is_dir():
        raise ConfigError(
            KEY, "is a folder, not an image", got=str(path),
            remedy=f"Give its files: sorted(Path({str(path)!r}).rglob('*.jpg'))",
        )  # fmt: skip
    return _named(str(path), lambda: decode_image(path, background=background))


def _named(name: str, decode: Callable[..., Pixels], *arguments: Any) -> Pixels:
    try:
        return decode(*arguments)
    except FileNotFoundError:
        raise
    # Pillow reads late, and damaged files bring its decoders to errors of every kind.
    except Exception as error:
        raise BadImageError(f"{name}: {error or type(error).__name__}") from error


def _of_array(array: NDArray[Any], background: Colour) -> Pixels:
    told = f"an array {array.shape} of {array.dtype}"
    if array.dtype != np.uint8:
        remedy = "Convert it to uint8, 0 to 255"
        if array.dtype.kind == "f":
            remedy = "For pixels in [0, 1] give (255 * image).round().astype('uint8')"
        raise ConfigError(KEY, "an array must hold uint8", got=told, remedy=remedy)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        raise ConfigError(
            KEY, "an array must be (H, W, 3)", got=told,
            remedy="Give image.transpose(1, 2, 0)" if first else _TAKES,
        )  # fmt: skip
    if array.shape[2] == 4:
        return rgb_pixels(Image.fromarray(np.ascontiguousarray(array)), background)
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array


class Batches(Generic[T, R]):
    """What threads make of items, in batches and in order, begun before it is asked for.

    OpenCV and Pillow release the interpreter's lock while they decode and resize.

    Args:
        items: Taken as they are needed.
        work: What is done to each; raises in the batch that it belongs to.
        batch_size: Of all but the last, at least 1.
        num_ahead: Batches in work besides the one that is given out, at least 1.
    """

    def __init__(
        self, items: Iterable[T], work: Callable[[T], R], batch_size: int, num_ahead: int = 1
    ) -> None:
        self._items = iter(items)
        self._work = work
        self._batch_size = batch_size
        self._num_ahead = num_ahead
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decoding")
        self._waiting: deque[list[Future[R]]] = deque()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is in work."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[list[R]]:
        """Lists of at most `batch_size`."""
        while self._waiting:
            batch = [future.result() for future in self._waiting.popleft()]
            self._begin()
            yield batch

    def _begin(self) -> None:
        while len(self._waiting) <= self._num_ahead:
            items = islice(self._items, self._batch_size)
            batch = [self._pool.submit(self._work, item) for item in items]
            if not batch:
                return
            self._waiting.append(batch)
