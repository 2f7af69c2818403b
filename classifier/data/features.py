"""What a frozen encoder makes of each image, computed once and kept in a memory map.

Features are kept under the hash of the image's content and the number of the augmented view, in a
folder that is named by all else that they depend on: the frozen weights, the architecture, the
preprocessing, the precision. So nothing kept can be out of date, and epochs, resumes, folds, runs
and the trials of a sweep share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from classifier.data.fingerprints import Fingerprints
from classifier.data.loading import Batch, StageDataset, collate, init_worker
from classifier.data.store import Index, Store
from classifier.data.worker_signals import SteadyLoader
from classifier.errors import RunError
from classifier.files import write_text

log = logging.getLogger(__name__)

_FORMAT = "1"
_FORM = "form.json"
# Of the free space of the disk, what features may take.
_SHARE_OF_DISK = 0.5


class Encoder(Protocol):
    """What computes features: the frozen part of a model."""

    def digest(self) -> str:
        """Equal where the features of equal images are."""

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, ...) on the CPU, of images (N, 3, H, W) as a loader yields them."""


class EncodedStage(Dataset[Batch]):
    """A stage whose images come as features; gives whole batches.

    Args:
        stage: Whose images they are.
        content: All that is kept: (rows, bytes) uint8.
        rows: For every view and every position in the stage, its row in `content`: (views, N).
        shape: Of one image's features.
        dtype: Of the features.
    """

    def __init__(
        self,
        stage: StageDataset,
        content: NDArray[np.uint8],
        rows: NDArray[np.int64],
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.stage = stage
        self.targets = stage.targets
        self._content = content
        self._rows = rows
        self._shape = shape
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self.stage)

    def __getitems__(self, items: Sequence[Any]) -> Batch:
        """A batch at once.

        Args:
            items: Positions in the stage, or (epoch, position): epochs go round the views.
        """
        pairs = [item if isinstance(item, tuple) else (0, item) for item in items]
        epochs, positions = np.array(pairs, dtype=np.int64).T
        found = self._content[self._rows[epochs % len(self._rows), positions]]
        features = torch.from_numpy(found).view(self._dtype).view(len(pairs), *self._shape)
        targets = default_collate([self.stage.target(position) for position in positions.tolist()])
        return Batch(features, targets, torch.from_numpy(positions), encoded=True)


class FeatureCache:
    """The features of stages by one encoder.

    Args:
        folder: Of all caches.
        encoder: Computes them.
        views: How often every image is augmented and encoded, at least 1.
        batch_size: Images to encode at once.
        num_workers: Processes that decode meanwhile.
    """

    def __init__(
        self, folder: Path, encoder: Encoder, views: int, batch_size: int, num_workers: int
    ) -> None:
        self.folder = folder
        self.encoder = encoder
        self.views = views
        self.batch_size = batch_size
        self.num_workers = num_workers

    def encoded(self, stage: StageDataset) -> EncodedStage | None:
        """The stage as features, computed now where they are not kept yet.

        Args:
            stage: With a pipeline that has a name.

        Returns:
            None where the disk has no room for them; the log says so.

        Raises:
            RunError: the disk became full, or an image cannot be decoded.
            ConfigError: the folder cannot be used.
        """
        views = self.views if stage.pipeline.is_random else 1
        store = self._store(stage)
        with store.in_words():
            prints = Fingerprints(self.folder, stage.source, max(1, self.num_workers))
            keys = _keys(stage, prints.all(stage.indices), views)
            index = store.index()
            if any(key not in index for view in keys for key in view):
                with store.writing() as index:
                    missing = {
                        key: position
                        for view in keys
                        for position, key in enumerate(view)
                        if key not in index  # another process may have made some meanwhile
                    }
                    images = _Views(stage, list(missing.items()), keys[0], prints)
                    if missing and not self._fill(images, store, index):
                        return None
        size = next(iter(index.values())).size
        rows = np.array([[index[key].offset // size for key in view] for view in keys])
        content = store.content()
        whole = content[: len(content) // size * size].reshape(-1, size)
        shape, dtype = _form_of(store.folder)
        return EncodedStage(stage, whole, rows, shape, dtype)

    def _store(self, stage: StageDataset) -> Store:
        # Of random views the seed decides, and the key.
        seed = stage.seed if stage.pipeline.is_random else None
        kept = stage.source.kept  # decoded images of the on-disk cache, which may be smaller
        facts = (
            _FORMAT, self.encoder.digest(), stage.pipeline.name, stage.source.background, seed,
            None if kept is None else kept.folder.name,
        )  # fmt: skip
        name = hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
        return Store(self.folder / "features" / name, "the features", "cache_features: false")

    def _fill(self, images: _Views, store: Store, index: Index) -> bool:
        """Encode what is missing; False where the disk has no room for it."""
        started = time.monotonic()
        batches = self._batches(images)
        first = next(batches)
        size = len(images) * first[1][0].numel() * first[1].element_size()
        free = shutil.disk_usage(store.folder).free
        told = f"features of {len(images)} images, {_bytes(size)}, in {store.folder}"
        if size > _SHARE_OF_DISK * free:
            log.warning(
                "cache_features: no room for the %s, with %s free: the encoder runs every epoch",
                told, _bytes(free),
            )  # fmt: skip
            return False
        log.info("frozen layers run once: %s", told)
        _note_form(store.folder, first[1])
        arrays = _as_arrays(chain([first], batches))
        store.append(arrays, index, len(images), "encoding into the cache")
        log.info("encoded in %.1f s", time.monotonic() - started)
        return True

    def _batches(self, images: _Views) -> Iterator[tuple[list[bytes], Tensor]]:
        workers = min(self.num_workers, max(0, len(images) - 1))
        loader = SteadyLoader(
            images, batch_size=self.batch_size, num_workers=workers, collate_fn=collate,
            worker_init_fn=init_worker, generator=torch.Generator().manual_seed(images.stage.seed),
        )  # fmt: skip
        for batch in loader:
            keys = [images.items[number][0] for number in batch.indices.tolist()]
            yield keys, self.encoder.encode(batch.images)


class _Views(Dataset[tuple[Tensor, Any, int, str]]):
    """The images to encode; the random numbers of each follow from its key."""

    def __init__(
        self,
        stage: StageDataset,
        items: list[tuple[bytes, int]],
        first_keys: list[bytes],
        prints: Fingerprints,
    ) -> None:
        self.stage = stage
        self.items = items  # keys with their positions in the stage
        self._first_keys = first_keys
        self._prints = prints

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Any, int, str]:
        key, position = self.items[number]
        image = self.stage.image(position, int.from_bytes(key[:7]))
        content = self._prints.one(self.stage.indices[position])
        if content is None or _key(content, 0) != self._first_keys[position]:
            raise RunError(f"{self.stage.path(position)} changed while it was read")
        return image, -1, number, ""


def _as_arrays(
    batches: Iterable[tuple[list[bytes], Tensor]],
) -> Iterator[tuple[bytes, NDArray[np.uint8]]]:
    for keys, features in batches:
        flat = features.contiguous().view(len(keys), -1).view(torch.uint8).numpy()
        yield from zip(keys, flat, strict=True)


def _keys(stage: StageDataset, prints: dict[int, bytes], views: int) -> list[list[bytes]]:
    """The key of every image in every view: (views, N)."""
    # An image that cannot be read now has no key; decoding it says why.
    contents = [prints.get(index, b"?") for index in stage.indices]
    return [[_key(print_, view) for print_ in contents] for view in range(views)]


def _key(print_: bytes, view: int) -> bytes:
    return hashlib.blake2b(print_ + view.to_bytes(8), digest_size=16).digest()


def _note_form(folder: Path, features: Tensor) -> None:
    dtype = str(features.dtype).removeprefix("torch.")
    form = {"shape": list(features.shape[1:]), "dtype": dtype}
    write_text(folder / _FORM, json.dumps(form))


def _form_of(folder: Path) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and type of one image's features."""
    form = json.loads((folder / _FORM).read_text(encoding="utf-8"))
    return tuple(form["shape"]), getattr(torch, form["dtype"])


def _bytes(number: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
