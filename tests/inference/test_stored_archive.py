"""Archives are taken only where every reader sees the same files in them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch

from classifier.inference import stored_archive
from classifier.inference.stored_archive import ALIGNMENT, rewritten
from tests.inference.archives import files_of, two_in_one

FILES = {"archive/a": b"first" * 50, "archive/empty": b"", "archive/grün/b": bytes(range(256)), "archive/version": b"3\n"}  # fmt: skip


def by_python(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def by_torch() -> bytes:
    """With a record after each file, padding, and end records for sizes of 64 bits."""
    stream = io.BytesIO()
    torch.save({"x": torch.arange(1000.0), "y": torch.zeros(3)}, stream)
    return stream.getvalue()


def seen_by_torch(content: bytes) -> dict[str, bytes]:
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    return {f"archive/{name}": reader.get_record(name) for name in reader.get_all_records()}


@pytest.mark.parametrize("content", [by_python(FILES), by_torch()], ids=["python", "torch"])
def test_copy_has_the_same_files_for_python_and_for_torch(content: bytes) -> None:
    copy = rewritten(content)
    assert files_of(copy) == files_of(content) == seen_by_torch(copy)
    assert rewritten(copy) == copy


def test_files_of_the_copy_start_where_torch_aligns_them() -> None:
    copy = rewritten(by_torch())
    with zipfile.ZipFile(io.BytesIO(copy)) as archive:
        for entry in archive.infolist():
            name, extra = struct.unpack_from("<2H", copy, entry.header_offset + 26)
            assert (entry.header_offset + 30 + name + extra) % ALIGNMENT == 0
    found = torch.load(io.BytesIO(copy), weights_only=True)
    assert torch.equal(found["x"], torch.arange(1000.0))


def test_archive_that_python_and_torch_read_differently_is_refused() -> None:
    evil = {name: data.upper() for name, data in FILES.items() if name.isascii()}
    harmless = {name: FILES[name] for name in evil}
    content = two_in_one(evil, harmless)
    assert files_of(content) == harmless
    assert seen_by_torch(content) == evil
    with pytest.raises(ValueError, match="its list of files is not where its end record says"):
        rewritten(content)


def test_copy_has_what_python_saw_even_if_no_layout_were_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is what protects; that odd layouts are refused comes on top."""
    for check in ("_check_directory", "_check_entries"):
        monkeypatch.setattr(stored_archive, check, lambda *_: None)
    harmless = {"archive/a": b"x" * 200, "archive/version": b"3\n"}
    copy = rewritten(two_in_one({**harmless, "archive/a": b"y" * 200}, harmless))
    assert seen_by_torch(copy) == files_of(copy) == harmless


def at(place: int, new: bytes) -> Callable[[bytes], bytes]:
    """Other bytes at a place, which is counted from the end where it is below 0."""

    def change(content: bytes) -> bytes:
        first = place % len(content)
        return content[:first] + new + content[first + len(new) :]

    return change


def with_gap(content: bytes) -> bytes:
    """Eight bytes between the files and their list, of which the end record knows."""
    (first,) = struct.unpack_from("<L", content, len(content) - 6)
    moved = content[:first] + bytes(8) + content[first:]
    return at(-6, struct.pack("<L", first + 8))(moved)


def with_gap_between(content: bytes) -> bytes:
    """The first file leaves the list, and stays where it is."""
    first, size = struct.unpack_from("<2L", content, len(content) - 10)[::-1]
    length = 46 + len("archive/a")
    shorter = content[:first] + content[first + length :]
    return at(-14, struct.pack("<2H2L", 3, 3, size - length, first))(shorter)


def with_comment(content: bytes) -> bytes:
    return at(-2, b"\2\0")(content) + b"hi"


PLAIN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "prefix": (lambda content: b"#!/bin/sh\n" + content, "list of files is not where"),
    "gap": (with_gap, "something between its files"),
    "file out of the list": (with_gap_between, "something between its files"),
    "comment": (with_comment, "end record is not its end"),
    "more bytes": (lambda content: content + b"\0", "end record is not its end"),
    "fewer files": (at(-14, b"\2\0\2\0"), "counts other files"),
    "several disks": (at(-18, b"\1\0"), "counts other files"),
    "other place": (at(-6, b"\0\0\0\0"), "list of files is not where"),
    "encrypted": (lambda content: content.replace(
        b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1", 1), "encrypted"),
    "other name in front of a file": (
        lambda content: content.replace(b"archive/a", b"archive/A", 1), "differ"),
    "check sum": (lambda content: content.replace(b"firstf", b"firstF", 1), "Bad CRC"),
    "half": (lambda content: content[: len(content) // 2], "not a zip file"),
    "nothing": (lambda _: b"", "not a zip file"),
}  # fmt: skip


@pytest.mark.parametrize("damage", PLAIN)
def test_archive_that_python_wrote_is_refused_when_it_was_changed(damage: str) -> None:
    change, message = PLAIN[damage]
    with pytest.raises(ValueError, match=message):
        rewritten(change(by_python(FILES)))


OF_TORCH: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "place in the short record": (at(-6, b"\1\0\0\0"), "end records disagree"),
    "place in the long record": (at(-22 - 20 - 8, b"\1"), "end records disagree"),
    "place of the long record": (at(-22 - 12, b"\1"), "."),
    "record after a file": (
        lambda content: content.replace(b"PK\7\x08", b"PK\7\7", 1), "something between its files"),
}  # fmt: skip


@pytest.mark.parametrize("damage", OF_TORCH)
def test_archive_that_torch_wrote_is_refused_when_it_was_changed(damage: str) -> None:
    change, message = OF_TORCH[damage]
    with pytest.raises(ValueError, match=message):
        rewritten(change(by_torch()))


def test_compressed_archive_is_refused() -> None:
    with pytest.raises(ValueError, match="its files are compressed"):
        rewritten(by_python(FILES, zipfile.ZIP_DEFLATED))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_two_files_of_one_name_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/a", b"1")
        archive.writestr("archive/a", b"2")
    with pytest.raises(ValueError, match="several of its files have one name"):
        rewritten(stream.getvalue())
