"""The on-disk cache: decoded, resized images in a memory map, shared by epochs, runs and trials.

An image is kept under the hash of its content. Another content is another image, so nothing in the
cache can be out of date, and data sets, splits and folds share what they have in common. A folder
holds the images of one resize:

    images.bin   pixels, one image after the other
    index.bin    where each one lies, written after its pixels
    ../files.bin content hashes of files whose size, time and inode have not changed since

All three only grow, under a lock, in whole records: a process that is killed leaves at most pixels
that nothing points to, which the next one overwrites.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from classifier.data.datasets import FilesDataset, ImageDataset
from classifier.data.decoding import BadImageError
from classifier.data.hub_datasets import HuggingFaceDataset
from classifier.data.torchvision_datasets import TorchvisionDataset
from classifier.errors import ConfigError, RunError

log = logging.getLogger(__name__)

# Another way of decoding is another cache.
_FORMAT = "1"
_CHUNK = 256
# A file that changed so recently may change once more within the clock's grain.
_SETTLED_SECONDS = 2.0
_KNOWN_LOADS = (FilesDataset.load, HuggingFaceDataset.load, TorchvisionDataset.load)
_WHERE = struct.Struct("<16sQIII")  # content hash, offset, height, width, checksum of the record
_KNOWN = struct.Struct("<16s16s")  # hash of path and stat, content hash


class Kept(NamedTuple):
    """Where an image lies."""

    offset: int
    height: int
    width: int


class ImageCache:
    """Decoded images of one data set and one resize.

    Args:
        folder: Of all caches.
        dataset: An ImageDataset.
        resize: What an image goes through before it is kept: a KeepingResize.
        num_threads: That decode.
    """

    def __init__(self, folder: Path, dataset: Any, resize: Any, num_threads: int) -> None:
        told = f"{_FORMAT} {resize.name} over {dataset.background}".encode()
        self.folder = folder / hashlib.blake2b(told, digest_size=8).hexdigest()
        self.dataset = dataset
        self.resize = resize
        self.num_threads = max(1, num_threads)
        self._files = folder / "files.bin"
        self._places: dict[int, Kept] = {}
        # What a data set's own code makes of a file shows in the pixels alone.
        self._own_load = type(dataset).load not in _KNOWN_LOADS
        self._hash = (
            partial(ImageDataset.fingerprint, dataset) if self._own_load else dataset.fingerprint
        )
        self._pixels: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A worker opens the map itself, and fills nothing."""
        return {**self.__dict__, "_pixels": None, "resize": None, "_hash": None}

    # Reading

    def load(self, index: int) -> NDArray[np.uint8]:
        """The kept pixels (H, W, 3) of image `index`, uint8.

        Raises:
            BadImageError: the image cannot be decoded.
        """
        place = self._places.get(index)
        if place is None:
            pixels: NDArray[np.uint8] = self.dataset.load(index)  # says why it could not be kept
            return pixels
        if self._pixels is None:
            file = self.folder / "images.bin"
            self._pixels = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        end = place.offset + place.height * place.width * 3
        kept = self._pixels[place.offset : end].reshape(place.height, place.width, 3)
        return kept.copy()  # transforms may write into what they get

    # Filling

    def fill(self, indices: Sequence[int]) -> None:
        """Keep what is not kept yet; another process that does the same is waited for.

        Args:
            indices: Positions in the data set.

        Raises:
            RunError: the disk is full.
            ConfigError: the folder cannot be written to.
        """
        try:
            prints = self._fingerprints(indices)
            index = self._read_index()
            if any(print_ not in index for print_ in prints.values()):
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._lock():
                    index = self._read_index(mend=True)
                    missing = {p: i for i, p in prints.items() if p not in index}
                    self._append(list(missing.items()), index)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise RunError(
                    f"the disk is full: {self.folder}. Free some space, choose another "
                    "data.init_args.cache_dir, or write create_dataset: false"
                ) from error
            raise ConfigError(
                "data.init_args.cache_dir", f"cannot be used ({error.strerror or error})",
                got=str(self.folder.parent), remedy="Choose a folder that can be written to",
            ) from error  # fmt: skip
        self._places |= {i: index[print_] for i, print_ in prints.items() if print_ in index}

    def _lock(self) -> FileLock:
        lock = FileLock(str(self.folder / "lock"))
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            log.info("another run is filling the image cache %s: waiting for it", self.folder)
            lock.acquire()
        return lock

    def _append(self, missing: list[tuple[bytes, int]], index: dict[bytes, Kept]) -> None:
        started = time.monotonic()
        end = max((p.offset + p.height * p.width * 3 for p in index.values()), default=0)
        with (
            open(self.folder / "images.bin", "r+b" if end else "wb") as images,
            open(self.folder / "index.bin", "ab") as records,
            ThreadPoolExecutor(self.num_threads) as pool,
            tqdm(
                total=len(missing), desc="decoding into the cache", unit="img", leave=False,
                disable=not sys.stderr.isatty(),
            ) as bar,
        ):  # fmt: skip
            images.truncate(end)
            images.seek(end)
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                told = bytearray()
                for (print_, _), pixels in zip(chunk, pool.map(self._decode, chunk), strict=True):
                    if pixels is None:
                        continue
                    place = Kept(end, *pixels.shape[:2])
                    images.write(pixels.tobytes())
                    end += pixels.nbytes
                    index[print_] = place
                    told += _record(print_, place)
                images.flush()
                os.fsync(images.fileno())
                records.write(told)
                records.flush()
                os.fsync(records.fileno())
                bar.update(len(chunk))
        log.info(
            "%s: %d images decoded into the cache in %.1f s",
            self.folder, len(missing), time.monotonic() - started,
        )  # fmt: skip

    def _decode(self, item: tuple[bytes, int]) -> NDArray[np.uint8] | None:
        """Pixels to keep; None of what cannot be decoded now, which is tried again each time."""
        print_, index = item
        try:
            pixels: NDArray[np.uint8] = self.resize(self.dataset.load(index))
        except (BadImageError, FileNotFoundError):
            return None
        if self._fingerprint(index) != print_:
            raise RunError(f"{self.dataset.describe(index)} changed while it was read")
        return pixels

    def _read_index(self, *, mend: bool = False) -> dict[bytes, Kept]:
        """What is kept; a record that was not written whole ends it, and is cut off to mend it."""
        file, images = self.folder / "index.bin", self.folder / "images.bin"
        data = file.read_bytes() if file.is_file() else b""
        size = images.stat().st_size if images.is_file() else 0
        found: dict[bytes, Kept] = {}
        whole = 0
        for record in _records(_WHERE, data):
            print_, *numbers, checksum = record
            place = Kept(*numbers)
            end = place.offset + place.height * place.width * 3
            if checksum != _checksum(print_, place) or end > size:
                break
            found[print_] = place
            whole += _WHERE.size
        if mend and whole < len(data):
            with open(file, "r+b") as stream:
                stream.truncate(whole)
        return found

    # Fingerprints

    def _fingerprints(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Content hash of each readable image; files that have not changed are not read for it."""
        states = {i: None if self._own_load else _state(self.dataset.file(i)) for i in indices}
        data = self._files.read_bytes() if self._files.is_file() else b""
        known = dict(_records(_KNOWN, data))
        found = {index: known[s] for index, s in states.items() if s is not None and s in known}
        unknown = [index for index in indices if index not in found]
        with ThreadPoolExecutor(self.num_threads) as pool:
            prints = pool.map(self._fingerprint, unknown)
            fresh = {i: print_ for i, print_ in zip(unknown, prints, strict=True) if print_}
        self._remember([(states[index], print_) for index, print_ in fresh.items()])
        return found | fresh

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

    def _fingerprint(self, index: int) -> bytes | None:
        """None for an image that cannot be read: decoding it says why."""
        try:
            found: bytes = self._hash(index)
        except OSError:
            return None
        return found


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


def _records(kind: struct.Struct, data: bytes) -> Iterator[tuple[Any, ...]]:
    return kind.iter_unpack(data[: len(data) // kind.size * kind.size])


def _record(print_: bytes, place: Kept) -> bytes:
    return _WHERE.pack(print_, *place, _checksum(print_, place))


def _checksum(print_: bytes, place: Kept) -> int:
    return int.from_bytes(hashlib.blake2b(print_ + repr(tuple(place)).encode()).digest()[:4], "big")
