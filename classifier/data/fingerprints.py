"""Content hashes of a data set's images; a file that has not changed is not read for it again."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from classifier.data.datasets import ImageDataset, sample_name
from classifier.data.folders import FolderImageDataset
from classifier.data.paths import listing_fingerprint, size_of
from classifier.data.portions import in_portions
from classifier.data.splitting import classes_of
from classifier.data.tables import CsvImageDataset

if TYPE_CHECKING:
    from classifier.data.loading import StageDataset

log = logging.getLogger(__name__)

# A file that changed so recently may change once more within the clock's grain.
_SETTLED_SECONDS = 2.0
_KNOWN = struct.Struct("<16s16s")  # hash of path and stat, content hash


class Fingerprints:
    """Content hashes of the images of one data set.

    Args:
        folder: Where files.bin remembers the hashes of files by their size, time and inode.
        dataset: Whose images they are.
        num_threads: That read.
    """

    def __init__(self, folder: Path, dataset: ImageDataset, num_threads: int) -> None:
        self.dataset = dataset
        self.num_threads = num_threads
        self._files = folder / "files.bin"

    def all(self, indices: Sequence[int]) -> dict[int, bytes]:
        """The 16-byte hash of each image that can be read.

        Args:
            indices: Positions in the data set.
        """
        by_file = self.dataset.decodes_as_is
        data = self._files.read_bytes() if self._files.is_file() else b""
        known = dict(_KNOWN.iter_unpack(data[: len(data) // _KNOWN.size * _KNOWN.size]))
        found: dict[int, bytes] = {}
        states: dict[int, bytes | None] = {}  # of those that are not known
        for index in indices:
            state = _state(self.dataset.file(index)) if by_file else None
            if state is not None and state in known:
                found[index] = known[state]
            else:
                states[index] = state
        unknown = list(states)
        with ThreadPoolExecutor(self.num_threads) as pool:
            prints = in_portions(pool, self.one, unknown)
            fresh = {i: print_ for i, print_ in zip(unknown, prints, strict=True) if print_}
        self._remember([(states[index], print_) for index, print_ in fresh.items()])
        return found | fresh

    def one(self, index: int) -> bytes | None:
        """The hash of one image as it is now; None where it cannot be read: decoding says why."""
        try:
            if self.dataset.decodes_as_is:
                return self.dataset.fingerprint(index)
            # What a data set's own code makes of a file shows in the pixels alone.
            return ImageDataset.fingerprint(self.dataset, index)
        except OSError:
            return None

    def _remember(self, fresh: list[tuple[bytes | None, bytes]]) -> None:
        """Spare the next start the reading; where that cannot be written, it reads again."""
        told = b"".join(_KNOWN.pack(state, print_) for state, print_ in fresh if state is not None)
        if not told:
            return
        try:
            self._files.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._files}.lock"), open(self._files, "ab") as stream:
                stream.truncate(stream.tell() // _KNOWN.size * _KNOWN.size)
                stream.write(told)
        except OSError as error:
            log.debug("%s: %s", self._files, error)


def _state(file: Path | None) -> bytes | None:
    """A hash of a file's path and stat; None where it may still change unseen."""
    if file is None:
        return None
    try:
        stat = os.stat(file)
    except OSError:
        return None
    if time.time() - max(stat.st_mtime, stat.st_ctime) < _SETTLED_SECONDS:
        return None
    told = (os.path.abspath(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    text = repr(told).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def stage_fingerprint(stage: StageDataset, class_names: Sequence[str]) -> dict[str, Any]:
    """Which images a stage has: the same for a data set that was moved or copied.

    A hash over the path of every image relative to its data set, its classes and the size of its
    file, in the order of the stage. No file is opened: a change that leaves a file's size as it was
    is not seen.

    Args:
        stage: Images with their targets.
        class_names: What the targets mean.

    Returns:
        `num_images`, `fingerprint` (32 hexadecimal digits), and of what it is.
    """
    names: dict[Any, tuple[str, ...]] = {}
    for target in stage.targets:
        if target not in names:
            names[target] = tuple(class_names[i] for i in classes_of(target) if i >= 0)
    return listing_fingerprint(
        [sample_name(stage.source, index) for index in stage.indices],
        [names[target] for target in stage.targets],
        _sizes(stage.source, stage.indices),
    )


def _sizes(source: Any, indices: Sequence[int]) -> list[int | None]:
    """Of each image's file in bytes; None where it has none, or is gone: decoding says so."""
    if not isinstance(source, ImageDataset):
        return [None] * len(indices)
    if type(source).file in (FolderImageDataset.file, CsvImageDataset.file):
        # An object for each path would take longer than asking for the size.
        root, samples = os.fspath(source.root), source.samples  # type: ignore[attr-defined]
        return [size_of(os.path.join(root, samples[index].path)) for index in indices]
    return [size_of(source.file(index)) for index in indices]
