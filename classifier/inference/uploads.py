"""What a server's client sends: one image, of a bounded size, raw or as a form's file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from email.message import Message
from email.parser import HeaderParser

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

FORM = "multipart/form-data"
READ_SECONDS = 30.0
# What a form has around its file: boundaries and the headers of its parts.
_FORM_BYTES = 64 * 1024
# More than browsers write; reading parameters takes a time that grows with its square.
_PART_HEAD_BYTES = 16 * 1024
_LONGEST_BOUNDARY = 70  # Source: RFC 2046, section 5.1.1
_CLOSE = {"Connection": "close"}


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """The image file that a request holds.

    Args:
        request: Whose body is the file, or a form with one file.
        max_bytes: Of the file; a longer one is refused before it is read to its end, whatever the
            request says of its length.

    Raises:
        HTTPException: 400 an empty body or a broken form, 408 a body that does not come, 413 one
            that is too long, 415 one of another type.
    """
    content_type = _content_type(request)
    kind = content_type.get_content_type()
    if kind != FORM and not kind.startswith("image/"):
        raise HTTPException(
            415,
            "send an image: as the file of a multipart form, or as the body with a Content-Type of "
            "image/jpeg, image/png or another image type",
            _CLOSE,
        )
    if kind == FORM:
        return _file_of(await _body(request, max_bytes + _FORM_BYTES), content_type, max_bytes)
    data = await _body(request, max_bytes)
    if not data:
        raise HTTPException(400, "the body is empty")
    return data


def _content_type(request: Request) -> Message:
    message = Message()
    # Of a header that is missing, Message would say text/plain; so would anyone.
    message["Content-Type"] = request.headers.get("Content-Type", "text/plain")
    return message


async def _body(request: Request, most: int) -> bytes:
    stated = request.headers.get("Content-Length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > most:
        raise _too_long(most)
    chunks: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                total += len(chunk)
                if total > most:
                    raise _too_long(most)
                chunks.append(chunk)
    except TimeoutError as error:
        raise HTTPException(408, "the body did not come in time", _CLOSE) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was cut short", _CLOSE) from error
    return b"".join(chunks)


def _too_long(most: int) -> HTTPException:
    # The rest of the body is never read: the connection is of no more use.
    return HTTPException(413, f"the body is too long: at most {most:,} bytes", _CLOSE)


def _file_of(body: bytes, content_type: Message, max_bytes: int) -> bytes:
    """The one file of a form.

    Source: RFC 7578, and RFC 2046, section 5.1.1, of which it makes use.
    """
    boundary = _told(content_type.get_boundary) or ""
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise HTTPException(400, "the multipart form has no boundary")
    # Of a line: spaces may follow a boundary, two hyphens end the form.
    line = re.compile(rb"\r\n--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?=\r\n|$)")
    parts = [b""]
    whole = b"\r\n" + body
    start = 0
    ended = False
    for match in line.finditer(whole):
        parts.append(whole[start : match.start()])
        start, ended = match.end(), match.group(1) is not None
        if ended:
            break
    if not ended:
        raise HTTPException(400, "the multipart form is cut short")
    files = [file for part in parts[2:] if (file := _file_in(part)) is not None]
    if len(files) != 1:
        raise HTTPException(400, f"the form has {len(files)} files: send one image in a request")
    if not files[0]:
        raise HTTPException(400, "the file is empty")
    if len(files[0]) > max_bytes:
        raise _too_long(max_bytes)
    return files[0]


def _file_in(part: bytes) -> bytes | None:
    """The content of a part of a form; None of a field that is no file."""
    head, separator, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not separator or len(head) > _PART_HEAD_BYTES:
        raise HTTPException(400, "the multipart form is broken")
    headers = HeaderParser().parsestr(head.decode("utf-8", "replace"))
    return None if _told(headers.get_filename) is None else content


def _told(parameter: Callable[[], str | None]) -> str | None:
    """A parameter of a header, None without one."""
    try:
        return parameter()
    except Exception as error:
        # Of parameters in pieces (RFC 2231) that do not fit, `email` raises whatever comes:
        # TypeError, ValueError, UnicodeError, LookupError.
        raise HTTPException(400, "the headers of the multipart form are broken") from error
