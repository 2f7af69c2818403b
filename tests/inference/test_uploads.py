from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st

from classifier.inference import uploads
from classifier.inference.uploads import read_upload


def read(body: bytes, headers: dict[str, str], max_bytes: int = 1000, cut: bool = False) -> bytes:
    """What is read of a request that comes in pieces of 100 bytes."""

    def messages() -> Iterator[dict[str, Any]]:
        for start in range(0, max(1, len(body)), 100):
            more = cut or start + 100 < len(body)
            yield {"type": "http.request", "body": body[start : start + 100], "more_body": more}
        yield {"type": "http.disconnect"}

    source = messages()

    async def receive() -> dict[str, Any]:
        return next(source)

    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": pairs}, receive)
    return asyncio.run(read_upload(request, max_bytes))


def refusal(*arguments: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(HTTPException) as refused:
        read(*arguments, **more)
    return refused.value.status_code, refused.value.detail


@given(st.binary(min_size=1, max_size=500), st.text(max_size=20), st.text(max_size=20))
def test_file_of_a_form_is_read_as_another_library_wrote_it(
    content: bytes, name: str, field: str
) -> None:
    request = httpx2.Request(
        "POST", "http://localhost", data={"note": field}, files={"image": (name or "x", content)}
    )
    assert read(request.read(), dict(request.headers)) == content


def test_file_is_read_when_it_holds_what_looks_like_a_boundary() -> None:
    content = b"\r\n--xyzw\r\n--xy\r\n\r\n--xyz\r-"
    head = b'preamble\r\n--xyz \r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
    body = head + content + b"\r\n--xyz--\r\nepilogue"
    assert read(body, {"Content-Type": 'multipart/form-data; boundary="xyz"'}) == content


def test_body_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    kind = {"Content-Type": "image/png"}
    assert read(bytes(1000), kind) == bytes(1000)
    assert refusal(bytes(1001), kind) == (413, "the body is too long: at most 1,000 bytes")
    assert refusal(b"x", {**kind, "Content-Length": "1001"})[0] == 413


def test_client_that_leaves_is_no_failure_of_the_server() -> None:
    assert refusal(b"x", {"Content-Type": "image/png"}, cut=True)[0] == 400


def test_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "READ_SECONDS", 0.01)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("it was waited for")

    request = Request(
        {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}, receive
    )
    with pytest.raises(HTTPException) as refused:
        asyncio.run(read_upload(request, 1000))
    assert refused.value.status_code == 408


@pytest.mark.parametrize(
    "parameters", ["boundary*=utf-8''abc; boundary*1=x", "boundary*=''%ff; boundary*0*=a"]
)
def test_form_is_refused_when_its_boundary_comes_in_pieces_that_do_not_fit(parameters: str) -> None:
    status, told = refusal(b"--abc--", {"Content-Type": f"multipart/form-data; {parameters}"})
    assert status == 400 and "broken" in told


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data; filename*=utf-8''a; filename*1=x",
        b"Content-Disposition: form-data; filename=" + b"a" * 20_000,
    ],
)
def test_form_is_refused_when_the_headers_of_a_part_are_broken(head: bytes) -> None:
    body = b"--xyz\r\n" + head + b"\r\n\r\nimage\r\n--xyz--"
    status, told = refusal(body, {"Content-Type": "multipart/form-data; boundary=xyz"}, 100_000)
    assert status == 400 and "broken" in told


_PIECES = st.lists(
    st.tuples(
        st.sampled_from(["boundary", "filename", "x"]),
        st.sampled_from(["", "*", "*0", "*1", "*0*", "*1*", "*a"]),
        st.sampled_from(["xyz", "''%ff", "utf-8''xyz", "none''x", "'", '"', '"xyz"', "%"]),
    ),
    max_size=4,
)


@given(_PIECES, _PIECES)
def test_form_is_read_or_refused_when_parameters_are_odd(
    of_form: list[tuple[str, str, str]], of_part: list[tuple[str, str, str]]
) -> None:
    kind, disposition = (
        "".join(f"; {name}{piece}={value}" for name, piece, value in pieces)
        for pieces in (of_form, of_part)
    )
    body = f"--xyz\r\nContent-Disposition: form-data{disposition}\r\n\r\nimage\r\n--xyz--".encode()
    try:
        assert read(body, {"Content-Type": f"multipart/form-data{kind}"}) == b"image"
    except HTTPException as refused:
        assert refused.status_code == 400
