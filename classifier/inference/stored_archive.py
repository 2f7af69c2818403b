"""A zip archive written anew, so that every reader of it sees the same files.

A zip file names its files at its end, and readers find that list in different ways: in one file of
bytes, Python may see one archive and torch another. What Python checked would then not be what
torch opens. Only archives that can be read in one way are taken, and of these only a copy, which
this program wrote, goes to both.
"""

from __future__ import annotations

import io
import struct
import zipfile

# Where the bytes of a file start: torch reads tensors at multiples of it.
ALIGNMENT = 64
# Source: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.9 (data descriptor), 4.3.14 to
# 4.3.16 (end records).
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTORS = (struct.Struct("<4sL2Q"), struct.Struct("<4s3L"))
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_HAS_DESCRIPTOR = 0x8


def rewritten(content: bytes) -> bytes:
    """The same files in an archive of our own: uncompressed, aligned, nothing between them.

    Args:
        content: Of an archive as torch or Python writes them: uncompressed, one file after the
            other from the first byte on, then the list of them, then the end record.

    Raises:
        ValueError: no such archive, or a file in it that is not as it was written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as source:
            _check_directory(content, source)
            _check_entries(content, source)
            return _copy(source)
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError) as error:
        # RuntimeError, with NotImplementedError, is of what zipfile does not read: encryption ...
        raise ValueError(str(error)) from error


def _copy(source: zipfile.ZipFile) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for entry in source.infolist():
            copy = zipfile.ZipInfo(entry.filename)
            header = stream.tell() + _LOCAL.size + len(entry.filename.encode()) + 4
            padding = -header % ALIGNMENT
            # The field that torch itself pads with.
            copy.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
            target.writestr(copy, source.read(entry))
    return stream.getvalue()


def _check_directory(content: bytes, source: zipfile.ZipFile) -> None:
    """The list of files stands where the end record says, which is the last thing of the file."""
    place = len(content) - _END.size
    signature, *numbers, comment = _END.unpack_from(content, place)
    if signature != b"PK\5\6" or comment:
        raise ValueError("its end record is not its end")
    locator = place - _LOCATOR.size
    if locator >= _END64.size and content[locator : locator + 4] == b"PK\6\7":
        place = locator - _END64.size
        signature, size, _, _, *large = _END64.unpack_from(content, place)
        pointer = _LOCATOR.unpack_from(content, locator)
        fits = all(small in (number, most) for small, number, most in zip(
            numbers, large, (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2), strict=True))  # fmt: skip
        if (
            signature != b"PK\6\6" or size != _END64.size - 12
            or pointer[1:] != (0, place, 1) or not fits
        ):  # fmt: skip
            raise ValueError("its end records disagree")
        numbers = large
    *disks, here, entries, length, offset = numbers
    if disks != [0, 0] or here != entries or entries != len(source.infolist()):
        raise ValueError("its end record counts other files")
    if offset + length != place or offset != source.start_dir:
        raise ValueError("its list of files is not where its end record says")


def _check_entries(content: bytes, source: zipfile.ZipFile) -> None:
    """The files follow each other from the first byte of the archive to the list of them."""
    if len(set(source.namelist())) != len(source.infolist()):
        raise ValueError("several of its files have one name")
    place = 0
    for entry in sorted(source.infolist(), key=lambda entry: entry.header_offset):
        if entry.header_offset != place:
            raise ValueError("there is something between its files")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("its files are compressed")
        _, _, flags, *_, name, extra = _LOCAL.unpack_from(content, place)
        place += _LOCAL.size + name + extra + entry.file_size
        if flags & _HAS_DESCRIPTOR:
            place += _descriptor(content, place, entry)
    if place != source.start_dir:
        raise ValueError("there is something between its files")


def _descriptor(content: bytes, place: int, entry: zipfile.ZipInfo) -> int:
    """The size of the record after a file that repeats its check sum and sizes, in bytes."""
    expected = (b"PK\7\10", entry.CRC, entry.file_size, entry.file_size)
    for form in _DESCRIPTORS:
        if form.unpack_from(content, place) == expected:
            return form.size
    raise ValueError("there is something between its files")
