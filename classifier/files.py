"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a temporary neighbour, which takes the final name when the block ends well.

    The neighbour is in the same folder: a rename across file systems would be a copy, which a kill
    can leave half done. Its content is on the disk before the rename.

    Args:
        path: The final name.

    Yields:
        The temporary path to write to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary neighbour, which takes the final name when the block ends well.

    All files appear at once. They are not forced onto the disk one by one, which would take longer
    than writing them.

    Args:
        path: The final name, of which there is no folder yet.

    Yields:
        The temporary folder to write into; empty.
    """
    import shutil

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name without its bytes where the file system can, else copy it."""
    import shutil

    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
