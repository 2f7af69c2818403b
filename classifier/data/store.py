"""Arrays on disk by the hash of what they were made from: only ever appended, shared by processes.

    data.bin    arrays, one after the other
    index.bin   where each one lies, written after its bytes

Both only grow, under a lock, in whole records: a process that is killed leaves at most bytes that
nothing points to, which the next one overwrites.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import struct
import sys
from array import array
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from classifier.errors import ConfigError, RunError

log = logging.getLogger(__name__)

_CHUNK = 256  # records between two syncs
_WHERE = struct.Struct("<16sQQII")  # key, offset, bytes, rows, checksum of the record


class Kept(NamedTuple):
    """Where an array lies.

    Args:
        offset: In bytes.
        size: In bytes.
        rows: Of the array, from which its reader knows the shape.
    """

    offset: int
    size: int
    rows: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + self.size


class Index(MutableMapping[bytes, Kept]):
    """Where each array lies, by its key: numbers in a row, and no object for each array."""

    def __init__(self) -> None:
        self._records: dict[bytes, int] = {}
        self._numbers = array("Q")  # of each record its offset, size and rows

    def __getitem__(self, key: bytes) -> Kept:
        first = 3 * self._records[key]
        return Kept(*self._numbers[first : first + 3])

    def __setitem__(self, key: bytes, place: Kept) -> None:
        first = 3 * self._records.setdefault(key, len(self._records))
        self._numbers[first : first + 3] = array("Q", place)

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("what is kept stays")

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


class Store:
    """A folder of arrays.

    Args:
        folder: Its own; made at the first write.
        what: What the arrays are, for messages: `the image cache`.
        switch: The configuration key with the value that does without it, for messages.
    """

    def __init__(self, folder: Path, what: str, switch: str) -> None:
        self.folder = folder
        self.what = what
        self.switch = switch
        self._map: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A worker opens the map itself."""
        return {**self.__dict__, "_map": None}

    def content(self) -> NDArray[np.uint8]:
        """All arrays as one memory map; ask again after an append."""
        if self._map is None:
            self._map = np.asarray(np.memmap(self.folder / "data.bin", dtype=np.uint8, mode="r"))
        return self._map

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """Say what the disk refuses.

        Raises:
            RunError: the disk is full.
            ConfigError: the folder cannot be used.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise RunError(
                    f"the disk is full: {self.folder}. Free some space, choose another "
                    f"data.init_args.cache_dir, or write {self.switch}"
                ) from error
            raise ConfigError(
                "data.init_args.cache_dir", f"cannot be used ({error.strerror or error})",
                got=str(self.folder.parent), remedy="Choose a folder that can be written to",
            ) from error  # fmt: skip

    @contextmanager
    def writing(self) -> Iterator[Index]:
        """Hold the lock, and know what is kept. Another process that writes is waited for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock():
                yield self.index(mend=True)
        finally:
            self._map = None

    def _lock(self) -> FileLock:
        lock = FileLock(str(self.folder / "lock"))
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            log.info("another run is filling %s %s: waiting for it", self.what, self.folder)
            lock.acquire()
        return lock

    def append(
        self,
        items: Iterator[tuple[bytes, NDArray[Any]]],
        index: Index,
        total: int,
        doing: str,
    ) -> None:
        """Write arrays behind those that are kept, and add them to the index.

        Args:
            items: Keys of 16 bytes with their arrays, made while they are written.
            index: As `writing` gave it; changed in place.
            total: How many there will be at most, for the progress bar.
            doing: What makes them, for the progress bar.
        """
        end = max((place.end for place in index.values()), default=0)
        with (
            open(self.folder / "data.bin", "r+b" if end else "wb") as data,
            open(self.folder / "index.bin", "ab") as records,
            tqdm(
                total=total, desc=doing, unit="img", leave=False, disable=not sys.stderr.isatty()
            ) as bar,
        ):
            data.truncate(end)
            data.seek(end)
            while chunk := list(islice(items, _CHUNK)):
                told = bytearray()
                for key, array in chunk:
                    place = Kept(end, array.nbytes, len(array))
                    data.write(np.ascontiguousarray(array).data)
                    end = place.end
                    index[key] = place
                    told += _WHERE.pack(key, *place, _checksum(key, place))
                    bar.update()
                data.flush()
                os.fsync(data.fileno())
                records.write(told)
                records.flush()
                os.fsync(records.fileno())

    def index(self, *, mend: bool = False) -> Index:
        """What is kept. A record that was not written whole ends it.

        Args:
            mend: Cut such a record off; only under the lock.
        """
        file, data = self.folder / "index.bin", self.folder / "data.bin"
        told = file.read_bytes() if file.is_file() else b""
        size = data.stat().st_size if data.is_file() else 0
        found = Index()
        whole = 0
        for key, *numbers, checksum in _WHERE.iter_unpack(
            told[: len(told) // _WHERE.size * _WHERE.size]
        ):
            place = Kept(*numbers)
            if checksum != _checksum(key, place) or place.end > size:
                break
            found[key] = place
            whole += _WHERE.size
        if mend and whole < len(told):
            with open(file, "r+b") as stream:
                stream.truncate(whole)
        return found


def _checksum(key: bytes, place: Kept) -> int:
    return int.from_bytes(hashlib.blake2b(key + repr(tuple(place)).encode()).digest()[:4], "big")
