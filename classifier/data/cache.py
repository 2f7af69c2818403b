"""The on-disk cache: decoded, resized images in a memory map, shared by epochs, runs and trials.

An image is kept under the hash of its content. Another content is another image, so nothing in the
cache can be out of date, and data sets, splits and folds share what they have in common. A folder
holds the images of one resize.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.data.augmentations import KeepingResize
from classifier.data.datasets import ImageDataset
from classifier.data.decoding import BadImageError
from classifier.data.fingerprints import Fingerprints
from classifier.data.loading import StageDataset
from classifier.data.store import Index, Store
from classifier.errors import ConfigError, RunError

log = logging.getLogger(__name__)

# Another way of decoding is another cache.
_FORMAT = "2"
_CHUNK = 256


class ImageCache:
    """Decoded images of one data set and one resize.

    Args:
        folder: Of all caches.
        dataset: Whose images they are.
        resize: What an image goes through before it is kept.
        num_threads: That decode.
    """

    def __init__(
        self, folder: Path, dataset: ImageDataset, resize: KeepingResize, num_threads: int
    ) -> None:
        told = f"{_FORMAT} {resize.name} over {dataset.background}".encode()
        self.folder = folder / hashlib.blake2b(told, digest_size=8).hexdigest()
        self.dataset = dataset
        self.resize = resize
        self.num_threads = max(1, num_threads)
        self._store = Store(self.folder, "the image cache", "create_dataset: false")
        # Of every image of the data set its offset, bytes and rows; no rows where it is not kept.
        self._places = np.zeros((0, 3), dtype=np.int64)
        self._prints = Fingerprints(folder, dataset, self.num_threads)

    def __getstate__(self) -> dict[str, Any]:
        """A worker fills nothing, so that it needs no resize, which holds what threads own."""
        return {**self.__dict__, "resize": None}

    def load(self, index: int) -> NDArray[np.uint8]:
        """The kept pixels (H, W, 3) of image `index`, uint8.

        Raises:
            BadImageError: the image cannot be decoded.
        """
        offset, size, rows = self._places[index].tolist() if len(self._places) else (0, 0, 0)
        if not rows:
            return self.dataset.load(index)  # says why it could not be kept
        kept = self._store.content()[offset : offset + size].reshape(rows, -1, 3)
        return kept.copy()  # transforms may write into what they get

    def fill(self, indices: Sequence[int]) -> None:
        """Keep what is not kept yet; another process that does the same is waited for.

        Args:
            indices: Positions in the data set.

        Raises:
            RunError: the disk is full.
            ConfigError: the folder cannot be written to.
        """
        with self._store.in_words():
            prints = self._prints.all(indices)
            index = self._store.index()
            if any(print_ not in index for print_ in prints.values()):
                with self._store.writing() as index:
                    missing = {p: i for i, p in prints.items() if p not in index}
                    self._append(list(missing.items()), index)
        if not len(self._places):
            self._places = np.zeros((len(self.dataset), 3), dtype=np.int64)
        for i, print_ in prints.items():
            if print_ in index:
                self._places[i] = index[print_]

    def _append(self, missing: list[tuple[bytes, int]], index: Index) -> None:
        started = time.monotonic()
        with ThreadPoolExecutor(self.num_threads) as pool:
            decoded = self._decoded(missing, pool)
            self._store.append(decoded, index, len(missing), "decoding into the cache")
        log.info(
            "%s: %d images decoded into the cache in %.1f s",
            self.folder, len(missing), time.monotonic() - started,
        )  # fmt: skip

    def _decoded(
        self, missing: list[tuple[bytes, int]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[bytes, NDArray[np.uint8]]]:
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for (print_, _), pixels in zip(chunk, pool.map(self._decode, chunk), strict=True):
                if pixels is not None:
                    yield print_, pixels

    def _decode(self, item: tuple[bytes, int]) -> NDArray[np.uint8] | None:
        """Pixels to keep; None of what cannot be decoded now, which is tried again each time."""
        print_, index = item
        try:
            pixels = self.resize(self.dataset.load(index))
        except (BadImageError, FileNotFoundError):
            return None
        if self._prints.one(index) != print_:
            raise RunError(f"{self.dataset.describe(index)} changed while it was read")
        return pixels


def keep(
    stage: StageDataset, resize: KeepingResize, folder: Path, num_workers: int, key: str
) -> None:
    """Let a stage read its decoded images from the on-disk cache.

    Args:
        stage: Of a training or an evaluation.
        resize: What an image goes through before it is kept.
        folder: Of all caches.
        num_workers: Threads that decode.
        key: Of the stage's data set, for the message.

    Raises:
        ConfigError: a data set whose images cannot be kept.
    """
    if not isinstance(stage.source, ImageDataset):
        raise ConfigError(
            "data.init_args.create_dataset",
            f"{key} is a {type(stage.source).__name__}, which cannot be kept", got=True,
            remedy="Derive it from classifier.ImageDataset, or write false",
        )  # fmt: skip
    origin = copy.copy(stage.source)
    origin.min_side = resize.min_side
    cache = ImageCache(folder, origin, resize, num_workers)
    cache.fill(stage.indices)
    stage.source.kept = cache
