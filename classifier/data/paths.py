"""The image files below folders, and those that a command line names. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
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
            for relative in find_images(path):
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


def find_images(root: Path) -> Iterator[str]:
    """The images below a folder, as paths relative to it with forward slashes.

    Symbolic links are followed, each real folder once, so that a loop ends.

    Yields:
        Paths in no particular order.
    """
    top = os.fspath(root)
    seen: set[str] = set()
    ignored: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Not by pathlib, which is slower and keeps every part of a path for a while.
        within = folder[len(top) :].strip(os.sep).replace(os.sep, "/")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if extension in IMAGE_EXTENSIONS and not name.startswith("."):
                if not _can_be_read(os.path.join(folder, name)):
                    ignored[f"{extension} that is a pipe or device"] += 1
                    continue
                yield f"{within}/{name}" if within else name
            elif not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                ignored[extension or "no extension"] += 1
    if ignored:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in ignored.most_common(5))
        log.info("%s: ignored %d files that are no images (%s)", root, ignored.total(), kinds)


def _can_be_read(file: str) -> bool:
    """Whether a file is one, or a link to nowhere, of which decoding tells."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return True


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
