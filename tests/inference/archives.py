"""Archives in which readers of zip files see different files."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping


def files_of(content: bytes) -> dict[str, bytes]:
    """Name -> bytes, as Python reads an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def two_in_one(for_torch: Mapping[str, bytes], for_python: Mapping[str, bytes]) -> bytes:
    """Two archives in one file, of the same names, each with a list of its files.

    torch believes the end record's offset of the list. Python takes what stands right before the
    end record for the list, and the difference for the length of something before the archive.
    """
    body = b""
    places: list[list[int]] = []
    for files in (for_torch, for_python):
        places.append([])
        for name, data in files.items():
            places[-1].append(len(body))
            fields = (20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data))
            body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields, len(name), 0)
            body += name.encode() + data
    shift = sum(46 + len(name) for name in for_torch)
    assert places[1][0] >= shift, "the second list cannot point that far back"
    lists = _listed(for_torch, places[0]), _listed(for_python, [at - shift for at in places[1]])
    assert len(lists[0]) == len(lists[1]) == shift
    number = len(for_torch)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, shift, len(body), 0)
    return body + lists[0] + lists[1] + end


def _listed(files: Mapping[str, bytes], places: list[int]) -> bytes:
    text = b""
    for (name, data), place in zip(files.items(), places, strict=True):
        fields = (20, 20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(name))
        text += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields, 0, 0, 0, 0, 0, place)
        text += name.encode()
    return text
