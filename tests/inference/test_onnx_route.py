"""ONNX files, opened with onnxruntime alone, also when they are not what they seem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.export import onnx as writer
from classifier.inference.description import KEY
from classifier.inference.onnx_route import open_onnx
from tests.export.making import answers_of, model_of, order_of, pixels_of

ROOT = Path(__file__).parents[2]
ALONE = """
import sys
for name in ("torch", "lightning", "cv2", "timm", "onnx", "yaml", "albumentations"):
    sys.modules[name] = None
import numpy as np
from pathlib import Path
from classifier.inference.onnx_route import open_onnx
route = open_onnx(Path(sys.argv[1]))
np.save("found.npy", route.probabilities(np.load("pixels.npy")))
"""


@pytest.fixture(scope="module")
def model() -> ImageClassifier:
    return model_of()


@pytest.fixture(scope="module")
def content(model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("written")
    writer.write(order_of(model), folder)
    return (folder / "model.onnx").read_bytes()


@pytest.fixture
def file(content: bytes, workplace: Path) -> Path:
    path = workplace / "model.onnx"
    path.write_bytes(content)
    return path


def test_file_predicts_when_nothing_but_numpy_and_onnxruntime_is_there(
    file: Path, model: ImageClassifier
) -> None:
    pixels = pixels_of(model, 5)
    np.save("pixels.npy", pixels)
    subprocess.run(
        [sys.executable, "-c", ALONE, str(file)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    np.testing.assert_allclose(np.load("found.npy"), answers_of(model, pixels), atol=1e-5)


def test_threads_share_a_model(file: Path, model: ImageClassifier) -> None:
    route = open_onnx(file)
    batches = [pixels_of(model, number) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(route.probabilities, batches * 4))
    for pixels, probabilities in zip(batches * 4, found, strict=True):
        np.testing.assert_array_equal(probabilities, route.probabilities(pixels))


@pytest.mark.parametrize(
    ("variable", "expected"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0), (None, 0)]
)
def test_threads_are_as_many_as_the_environment_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: int
) -> None:
    seen: list[int] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, **arguments: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return real(path, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    if variable is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    open_onnx(file)
    assert seen == [expected]


def test_onnxruntime_is_asked_for_when_it_is_not_installed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"^ckpt_path: onnxruntime, .* Run: pip install"):
        open_onnx(file)


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PK\3\4" + c, lambda c: b"hello" * 99],
                         ids=["short", "empty", "zip", "text"])  # fmt: skip
def test_error_says_that_a_file_is_damaged(
    file: Path, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=r"^ckpt_path: the file is damaged, or no ONNX file, got"):
        open_onnx(file)
    assert capfd.readouterr() == ("", "")


def test_error_says_that_there_is_no_file(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ckpt_path: there is no such file, got 'model.onnx'"):
        open_onnx(Path("model.onnx"))


def test_error_asks_for_a_newer_runtime_when_a_file_is_of_a_later_opset(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = onnx.load(file)
    changed.opset_import[0].version = 99
    onnx.save(changed, file)
    expected = r"cannot open the file \(ONNX Runtime only .*pset 99 .* install a newer onnxruntime"
    with pytest.raises(ConfigError, match=expected):
        open_onnx(file)
    assert capfd.readouterr() == ("", "")


def described(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    changed = onnx.load(file)
    for entry in changed.metadata_props:
        if entry.key == KEY:
            entry.value = json.dumps(change(json.loads(entry.value)))
    onnx.save(changed, file)


UNREADABLE = "what it says of its model cannot be read"
ANOTHER = "the graph of the ONNX file is not the one that it describes"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: {**d, "version": 2}, f"{UNREADABLE} .written by another version"),
        (lambda d: {"version": 1}, UNREADABLE),
        (lambda d: [1, 2], UNREADABLE),
        (lambda d: None, UNREADABLE),
        (lambda d: {**d, "preprocessing": 7}, UNREADABLE),
        (lambda d: {**d, "unknown": 7}, UNREADABLE),
        (lambda d: {**d, "class_names": ["ant"]}, ANOTHER),
        (lambda d: {**d, "input": "float"}, ANOTHER),
        (lambda d: {**d, "input": "bfloat"}, UNREADABLE),
        (lambda d: {**d, "preprocessing": {**d["preprocessing"], "size": [64, 64]}}, ANOTHER),
    ],
)
def test_error_says_what_is_wrong_when_a_file_carries_something_else(
    file: Path, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    described(file, change)
    with pytest.raises(ConfigError, match=f"^ckpt_path: {expected}"):
        open_onnx(file)


def test_error_says_so_when_another_program_wrote_the_file(file: Path) -> None:
    changed = onnx.load(file)
    del changed.metadata_props[:]
    onnx.save(changed, file)
    with pytest.raises(ConfigError, match=r"^ckpt_path: the ONNX file was not written by this"):
        open_onnx(file)
