"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from classifier.errors import RunError

_TEMPORARY = re.compile(r"\.(\d+)\.tmp")


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
    # Left by a killed process of this number, it may be a further name of a checkpoint.
    temporary.unlink(missing_ok=True)
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

    Raises:
        RunError: somebody else has filled a folder of this name meanwhile.
    """
    import shutil

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _filled(path) from error
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def filling_folder(path: Path) -> Iterator[Path]:
    """As `replacing_folder`, also of a folder that is there already and empty.

    That one stays itself, as it may be a mount: what fills it is renamed file by file, and taken
    away again where that is interrupted. What dead processes left in it is removed first.

    Args:
        path: The final name.

    Yields:
        The temporary folder to write into; empty, on the file system of the final one.

    Raises:
        RunError: somebody else has filled the folder meanwhile.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(path) as temporary:
            yield temporary
        return
    import shutil

    for name in set(os.listdir(path)).difference(content_of(path)):
        shutil.rmtree(path / name)
    temporary = path / f".{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        _move_all(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def content_of(folder: Path) -> list[str]:
    """Names in a folder, but for what `filling_folder` left there when its process was killed.

    Args:
        folder: Existing.
    """
    return [name for name in sorted(os.listdir(folder)) if not _is_left(folder / name)]


def is_temporary(name: str) -> bool:
    """Whether `filling_folder` makes folders of this name while it fills one."""
    return _TEMPORARY.fullmatch(name) is not None


def _is_left(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or path.is_symlink() or not path.is_dir():
        return False
    process = int(found.group(1))
    if process == os.getpid():  # as in a container that was started anew
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False  # it lives, as another user's
    return False


def _move_all(source: Path, target: Path) -> None:
    """Move what is in a folder into another one: all of it, or nothing.

    Each name is taken before anything comes to stand there, so that of two processes one gives way:
    at the first name that both have, before it has taken a later one.
    """
    import shutil

    moved: list[Path] = []
    try:
        if not all(map(is_temporary, os.listdir(target))):
            raise _filled(target)
        for item in sorted(source.iterdir()):
            place = target / item.name
            try:
                place.mkdir() if item.is_dir() else place.touch(exist_ok=False)
            except FileExistsError as error:
                raise _filled(target) from error
            moved.append(place)
            os.replace(item, place)
    except BaseException:
        for place in moved:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        raise


def _filled(path: Path) -> RunError:
    return RunError(f"{path} was filled by somebody else meanwhile. Name another folder")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file's bytes, whole or not at all.

    Args:
        source: A file, of another run folder above all: what is done to one of two run folders
            shall never reach the other.
        target: The copy.
    """
    import shutil

    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name without its bytes where the file system can, else copy it.

    Args:
        source: A file of the same run folder.
        target: Its further name.
    """
    import shutil

    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
