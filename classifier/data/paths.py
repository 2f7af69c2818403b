"""The image files below folders, and those that a command line names. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.data.decoding import IMAGE_EXTENSIONS
from classifier.errors import ConfigError

log = logging.getLogger(__name__)


def named_images(paths: Sequence[str], flag: str) -> dict[str, Path]:
    """The images that a command line names, sorted by the path of their row.

    Args:
        paths: Files and folders. With one folder alone a row's path is relative to it; otherwise it
            is the path as given, so that every row leads to its file.
        flag: What names them, for messages.

    Returns:
        Path of a row -> the file.

    Raises:
        ConfigError: a path that does not exist, or no image at all.
    """
    found: dict[str, Path] = {}
    alone = len(paths) == 1
    for name in paths:
        path = Path(name)
        if path.is_dir():
            for relative in find_images(path).images:
                row = relative if alone else (path / relative).as_posix()
                found[row] = path / relative
        elif path.is_file():
            found[path.as_posix()] = path
        else:
            raise ConfigError(
                flag, "no such file or folder", got=name,
                remedy="Name images or folders of images",
            )  # fmt: skip
    if not found:
        raise ConfigError(
            flag, "no images found", got=list(paths), remedy="Name images or folders of images"
        )
    return {row: found[row] for row in sorted(found)}


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Args:
        images: Paths relative to the folder, with forward slashes, sorted.
        empty: Names of its direct sub-folders that have no image below them, sorted.
    """

    images: list[str]
    empty: list[str]


def find_images(root: Path) -> Found:
    """The images below a folder.

    Symbolic links are followed, each real folder once, so that a loop ends. A folder that lies
    below the root is found there, and no link to it is followed: its name would be that of a class.
    """
    images: list[str] = []
    filled: set[str] = set()  # direct sub-folders with images
    ignored: Counter[str] = Counter()
    walk = _Walk(root)
    for folder, within, files in walk:
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if extension in IMAGE_EXTENSIONS and not name.startswith("."):
                if not _can_be_read(os.path.join(folder, name)):
                    ignored[f"{extension} that is a pipe or device"] += 1
                    continue
                images.append(f"{within}/{name}" if within else name)
                filled.add(within.partition("/")[0])
            elif not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                ignored[extension or "no extension"] += 1
    if ignored:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in ignored.most_common(5))
        log.info("%s: ignored %d files that are no images (%s)", root, ignored.total(), kinds)
    if walk.left_out:
        shown = ", ".join(f"{link} -> {real}" for link, real in list(walk.left_out.items())[:5])
        log.warning(
            "%s: left out %d links to folders that are there under another name (%s)",
            root, len(walk.left_out), shown,
        )  # fmt: skip
    images.sort()
    return Found(images, sorted(set(walk.direct) - filled - set(walk.left_out)))


class _Walk:
    """Every real folder below a root, once: those that lie there, then those that links lead to.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.top = os.fspath(root)
        self.direct: list[str] = []  # sub-folders of the root
        self.left_out: dict[str, str] = {}  # path below the root -> the folder that it is
        self._links: list[str] = []
        self._seen: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield each folder, its path below the root with forward slashes, and its files."""
        yield from self._below(self.top)
        self.direct += [link for link in map(self._within, self._links) if "/" not in link]
        for link in self._links:  # grows meanwhile
            yield from self._below(link)

    def _below(self, start: str) -> Iterator[tuple[str, str, list[str]]]:
        for folder, subfolders, files in os.walk(start):
            real, within = os.path.realpath(folder), self._within(folder)
            if real in self._seen:
                subfolders.clear()
                self.left_out[within] = self._named(real)
                continue
            self._seen.add(real)
            paths = {
                name: os.path.join(folder, name)
                for name in sorted(subfolders)
                if not name.startswith(".")
            }
            links = {name for name, path in paths.items() if os.path.islink(path)}
            self._links += [paths[name] for name in paths if name in links]
            subfolders[:] = [name for name in paths if name not in links]
            if not within:
                self.direct += subfolders
            yield folder, within, files

    def _within(self, folder: str) -> str:
        # Not by pathlib, which is slower and keeps every part of a path for a while.
        return folder[len(self.top) :].strip(os.sep).replace(os.sep, "/")

    def _named(self, real: str) -> str:
        """A real folder as a person looks for it: below the root where it lies there."""
        top = os.path.realpath(self.top)
        return os.path.relpath(real, top) if f"{real}/".startswith(f"{top}/") else real


def _can_be_read(file: str) -> bool:
    """Whether a file is one, or a link to nowhere, of which decoding tells."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return True


def empty_folders(dataset: Any, class_names: Sequence[str] = ()) -> dict[str, str]:
    """Class folders without an image -> what they hold, of a data set that has such folders.

    Args:
        dataset: Any data set, scanned.
        class_names: The names to leave out: what a class has no images of is told otherwise.
    """
    empty: Mapping[str, str] = getattr(dataset, "empty_folders", {})
    return {name: holds for name, holds in empty.items() if name not in class_names}


def listing_fingerprint(
    names: Sequence[str], labels: Sequence[tuple[str, ...]], sizes: Sequence[int | None]
) -> dict[str, Any]:
    """A hash of which images there are: of names, labels and file sizes, in their order.

    Args:
        names: Of the images, relative to their data set.
        labels: Of each image; empty where they are not known.
        sizes: Of each image's file in bytes; None where it has none.

    Returns:
        `num_images`, `fingerprint` (32 hexadecimal digits), and of what it is.
    """
    digest = hashlib.blake2b(digest_size=16)
    for image in zip(names, labels, sizes, strict=True):
        digest.update(repr(image).encode("utf-8", "surrogateescape"))
    of = "paths, classes and file sizes" if any(sizes) else "paths and classes"
    return {"num_images": len(names), "fingerprint": digest.hexdigest(), "of": of}


def size_of(file: str | Path | None) -> int | None:
    """A file's size in bytes; None where there is none, or it is gone: decoding says so."""
    try:
        return None if file is None else os.stat(file).st_size
    except OSError:
        return None
