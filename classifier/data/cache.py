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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from classifier.data.decoding import BadImageError
from classifier.errors import ConfigError, RunError

log = logging.getLogger(__name__)

# Another way of decoding is another cache.
_FORMAT = "1"
_CHUNK = 256
# A file that changed so recently may change once more within the clock's grain.
_SETTLED_SECONDS = 2.0
_WHERE = struct.Struct("<16sQIII")  # content hash, offset, height, width, checksum of the record
_KNOWN = struct.Struct("<16s16s")  # hash of path and stat, content hash


class Kept(NamedTuple):
    """Where an image lies; height 0 for one that cannot be decoded."""

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
        name = hashlib.blake2b(f"{_FORMAT} {resize.name}".encode(), digest_size=8).hexdigest()
        self.folder = folder / name
        self.dataset = dataset
        self.resize = resize
        self.num_threads = max(1, num_threads)
        self._files = folder / "files.bin"
        self._places: dict[int, Kept] = {}
        self._pixels: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A worker opens the map itself, and fills nothing."""
        return {**self.__dict__, "_pixels": None, "resize": None}

    # Reading

    def load(self, index: int) -> NDArray[np.uint8]:
        """The kept pixels (H, W, 3) of image `index`, uint8.

        Raises:
            BadImageError: the image cannot be decoded.
        """
        place = self._places[index]
        if place.height == 0:
            self.dataset.load(index)  # says why
            raise BadImageError("could not be decoded when it was to be kept")
        if self._pixels is None:
            file = self.folder / "images.bin"
            self._pixels = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        end = place.offset + place.height * place.width * 3
        pixels = self._pixels[place.offset : end].reshape(place.height, place.width, 3)
        return pixels.copy()  # transforms may write into what they get

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
            self.folder.mkdir(parents=True, exist_ok=True)
            prints = self._fingerprints(indices)
            with self._lock():
                index = self._read_index()
                missing = {p: i for i, p in prints.items() if p is not None and p not in index}
                if missing:
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
        none = Kept(0, 0, 0)
        self._places |= {i: none if p is None else index.get(p, none) for i, p in prints.items()}

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
                    height, width = pixels.shape[:2]
                    place = Kept(end if height else 0, height, width)
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

    def _decode(self, item: tuple[bytes, int]) -> NDArray[np.uint8]:
        """Pixels to keep; none of what cannot be decoded, which every epoch tells anew."""
        print_, index = item
        try:
            pixels: NDArray[np.uint8] = self.resize(self.dataset.load(index))
        except (BadImageError, FileNotFoundError):
            return np.zeros((0, 0, 3), dtype=np.uint8)
        if self.dataset.fingerprint(index) != print_:
            raise RunError(f"{self.dataset.describe(index)} changed while it was read")
        return pixels

    def _read_index(self) -> dict[bytes, Kept]:
        """What is kept; a record that was not written whole ends it, and is cut off."""
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
        if whole < len(data):
            with open(file, "r+b") as stream:
                stream.truncate(whole)
        return found

    # Fingerprints

    def _fingerprints(self, indices: Sequence[int]) -> dict[int, bytes | None]:
        """Content hash of each image; files that have not changed are not read for it."""
        states = {index: _state(self.dataset.file(index)) for index in indices}
        data = self._files.read_bytes() if self._files.is_file() else b""
        known = dict(_records(_KNOWN, data))
        found: dict[int, bytes | None] = {}
        for index, state in states.items():
            if state is not None and state in known:
                found[index] = known[state]
        unknown = [index for index in indices if index not in found]
        with ThreadPoolExecutor(self.num_threads) as pool:
            found |= dict(zip(unknown, pool.map(self._fingerprint, unknown), strict=True))
        fresh = [(states[index], found[index]) for index in unknown]
        told = b"".join(_KNOWN.pack(s, p) for s, p in fresh if s is not None and p is not None)
        if told:
            with FileLock(f"{self._files}.lock"), open(self._files, "ab") as stream:
                stream.truncate(stream.tell() // _KNOWN.size * _KNOWN.size)
                stream.write(told)
        return found

    def _fingerprint(self, index: int) -> bytes | None:
        try:
            found: bytes = self.dataset.fingerprint(index)
        except (BadImageError, FileNotFoundError):
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
