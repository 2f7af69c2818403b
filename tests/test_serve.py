"""The server as its clients see it: one process for all tests, on loopback."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
from PIL import Image

from classifier import Predictor
from classifier.export.onnx import write
from classifier.formats import FILES
from classifier.inference.predictor import Prediction
from tests.conftest import COLOURS
from tests.export.folders import NAMES, order_of, small_model, write_photos

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long
MAX_BYTES, MAX_PIXELS = 300_000, 1_000_000
JPEG = {"Content-Type": "image/jpeg"}


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    rng = np.random.default_rng(seed)
    colour = list(COLOURS.values())[seed % 3]
    pixels = np.clip(colour + rng.integers(-60, 60, (*size, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG file that states a size, and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(NamedTuple):
    port: int
    model: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: Any, headers: Any = JPEG) -> httpx2.Response:
        return httpx2.post(f"{self.url}/predict", content=body, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network = small_model("timm/test_resnet", write_photos(folder / "photos"))
    assert write(order_of(network, format="onnx"), folder).format == "onnx"
    return folder / FILES["onnx"]


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    folder = tmp_path_factory.mktemp("serve")
    words = ["--port", port, "--max_bytes", MAX_BYTES, "--max_pixels", MAX_PIXELS, "--top_k", 2]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/serve.py"), str(model), *map(str, words)],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "LIT_SERVER_API_KEY": ""},
        )  # fmt: skip
    try:
        _wait(process, port, folder / "log")
        yield Server(port, model)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        assert process.wait(20) == 130
        assert "Traceback" not in (folder / "log").read_text()
        assert [file.name for file in folder.iterdir()] == ["log"]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.load(model)


def check(answer: Any, expected: Prediction | list[Prediction]) -> None:
    assert isinstance(expected, Prediction)
    wanted = asdict(expected)
    assert answer.keys() == wanted.keys()
    assert answer.pop("probabilities") == pytest.approx(wanted.pop("probabilities"), abs=1e-5)
    assert answer == wanted


def test_info_tells_of_the_model_and_of_no_path(server: Server) -> None:
    answer = httpx2.get(f"{server.url}/info")
    assert answer.json()["model"]["class_names"] == NAMES
    assert answer.json()["model"]["task"] == "multiclass"
    assert answer.json()["model"]["input_size"] == [160, 160]
    assert server.model.parent.name not in answer.text and "/tmp" not in answer.text
    assert "server" not in answer.headers


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_image_is_answered_as_the_predictor_does_it(
    server: Server, predictor: Predictor, kind: str
) -> None:
    data = encoded(1, kind)
    expected = predictor.predict(data, top_k=2)
    check(server.post(data).json(), expected)
    form = httpx2.post(f"{server.url}/predict", files={"x": ("ä b.jpg", data)}, data={"note": "1"})
    check(form.json(), expected)


def test_clients_at_the_same_time_get_their_own_answers_when_some_send_broken_images(
    server: Server, predictor: Predictor
) -> None:
    bodies = [encoded(seed) if seed % 4 else encoded(seed)[:-300] for seed in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(server.post, bodies))
    for seed, answer in enumerate(answers):
        if seed % 4:
            assert answer.status_code == 200
            check(answer.json(), predictor.predict(bodies[seed], top_k=2))
        else:
            assert answer.status_code == 422 and "cannot be decoded" in answer.json()["detail"]


FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}
PART = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
BAD: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", JPEG, 400, "empty"),
    "text": (b"hello", {"Content-Type": "text/plain"}, 415, "send an image"),
    "json": (b"{}", {"Content-Type": "application/json"}, 415, "send an image"),
    "no type": (b"hello", {}, 415, "send an image"),
    "no image": (b"hello", JPEG, 422, "not an image in any format that is accepted"),
    "cut": (encoded(0, "JPEG")[:400], JPEG, 422, "cannot be decoded"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"Content-Type": "image/svg+xml"}, 422, "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", JPEG, 422, "not an image"),
    "long": (bytes(MAX_BYTES + 1), JPEG, 413, "at most 300,000 bytes"),
    "bomb": (bomb(60_000, 60_000), JPEG, 413, "more than 100,000,000 pixels"),
    "many pixels": (bomb(1001, 1000), JPEG, 413, "1001 x 1000"),
    "thin": (encoded(0, "PNG", (2000, 1)), JPEG, 413, "one side at most 100 times the other"),
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}, 400, "no boundary"),
    "no form": (b"x", FORM, 400, "cut short"),
    "no end": (PART + b"x", FORM, 400, "cut short"),
    "no head": (b"--xyz\r\nx\r\n--xyz--\r\n", FORM, 400, "broken"),
    "no file": (b'--xyz\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--xyz--\r\n', FORM, 400, "0 files"),
    "two files": ((PART + b"x\r\n") * 2 + b"--xyz--\r\n", FORM, 400, "2 files"),
    "empty file": (PART + b"\r\n--xyz--\r\n", FORM, 400, "the file is empty"),
    "long file": (PART + bytes(MAX_BYTES + 1) + b"\r\n--xyz--\r\n", FORM, 413, "at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_request_is_refused_in_plain_words(server: Server, name: str) -> None:
    body, headers, status, words = BAD[name]
    answer = server.post(body, headers)
    assert answer.status_code == status
    assert answer.json().keys() == {"detail"} and words in answer.json()["detail"]
    for leak in ("Traceback", "0x", ".py", "/tmp", "/work", "Error(", "litserve"):
        assert leak not in answer.text


def test_unknown_address_tells_nothing(server: Server) -> None:
    for path in ("/nope", "/docs", "/openapi.json", "/shutdown", "/predict/../../etc/passwd"):
        answer = httpx2.get(server.url + path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert httpx2.get(f"{server.url}/predict").json() == {"detail": "Method Not Allowed"}


def test_long_body_is_refused_before_it_is_read_when_its_length_is_stated(server: Server) -> None:
    status, sent = _send(server, {**JPEG, "Content-Length": str(10**12)}, [b"x" * 10])
    assert (status, sent) == (413, 1)


def test_long_body_is_refused_before_it_is_read_when_it_comes_in_chunks(server: Server) -> None:
    chunk = b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)
    status, sent = _send(server, {**JPEG, "Transfer-Encoding": "chunked"}, [chunk] * 2000)
    assert status == 413 and sent < 2000


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "9" * 5000, "10, 20"])
def test_length_that_is_none_is_refused(server: Server, length: str) -> None:
    status, _ = _send(server, {**JPEG, "Content-Length": length}, [b"x" * 10])
    assert status in (400, 413)


def test_body_longer_than_it_says_is_not_read_on(server: Server) -> None:
    data = encoded(0)
    status, _ = _send(server, {**JPEG, "Content-Length": str(len(data) - 300)}, [data])
    assert status in (400, 422)  # the rest is no HTTP


def test_server_lives_when_a_client_leaves_in_the_middle(server: Server) -> None:
    client = _open(server, {**JPEG, "Content-Length": "1000"})
    client.sendall(b"x" * 10)
    client.close()
    assert server.post(encoded(2)).status_code == 200


def _open(server: Server, headers: dict[str, str]) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    lines = [
        "POST /predict HTTP/1.1",
        "Host: localhost",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    return client


def _send(server: Server, headers: dict[str, str], parts: list[bytes]) -> tuple[int, int]:
    """The status of the answer, and how many parts were sent until it came."""
    client = _open(server, headers)
    sent = 0
    with client:
        for part in parts:
            try:
                client.sendall(part)
            except OSError:
                break
            sent += 1
            client.setblocking(False)
            try:
                if client.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                pass
            finally:
                client.settimeout(30)
        return int(client.recv(4096).split()[1]), sent


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("serve", ROOT / "scripts/serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_port_that_is_taken_is_one_message(server: Server, capsys: Any) -> None:
    assert _script().main([str(server.model), "--port", str(server.port)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("--port: cannot be had at 127.0.0.1: Address already in use")
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_model_that_is_none_is_one_message(workplace: Path, capsys: Any) -> None:
    assert _script().main(["missing.onnx", "--port", str(free_port())]) == 2
    assert "no such file or folder, got 'missing.onnx'" in capsys.readouterr().err


def test_missing_package_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "litserve", None)
    assert _script().main(["model.onnx"]) == 2
    assert "pip install 'litserve>=0.2.19,<1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--port", "80"], ["--port", "70000"], ["--top_k", "0"], ["--workers", "x"], []]
)
def test_wrong_option_is_refused(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        _script().main([*words] if not words else ["model.onnx", *words])
    assert end.value.code == 2
    assert (words[0] if words else "MODEL") in capsys.readouterr().err
