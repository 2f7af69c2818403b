"""Exported folders, opened by the program itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from classifier import decode_image
from classifier.errors import ConfigError
from classifier.export.huggingface import write
from classifier.inference.description import KEY
from classifier.inference.huggingface_route import open_folder
from classifier.preprocessing import Preprocessing
from tests.export.folders import (
    CASES,
    files_of,
    make_case,
    order_of,
    small_model,
    told_by_checkpoint,
    transformers_name,
    write_photos,
)
from tests.model.test_families import SMALL_VIT


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "huggingface"
    made.mkdir()
    return made


def prepared(photos: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.stack([preprocessing.prepare(decode_image(file)) for file in files_of(photos)])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_route_answers_as_the_checkpoint(
    case: str, precision: str, tmp_path: Path, folder: Path, photos: Path, capfd: Any
) -> None:
    model = make_case(case, tmp_path, photos)
    description = write(order_of(model, precision=precision), folder)
    route = open_folder(folder, device="cpu")
    assert route.description == description
    found = route.probabilities(prepared(photos, route.description.preprocessing))
    assert found.dtype == np.float32
    atol = 1e-5 if precision == "fp32" else 0.02
    np.testing.assert_allclose(found, told_by_checkpoint(model, photos), atol=atol)
    assert capfd.readouterr().err == ""  # no progress bars


def test_route_answers_the_same_in_several_threads(
    tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = make_case("hf vit", tmp_path, photos)
    write(order_of(model), folder)
    route = open_folder(folder, device="cpu")
    images = prepared(photos, route.description.preprocessing)
    expected = told_by_checkpoint(model, photos)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(route.probabilities, [images] * 16):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.pop(key)


def put(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(values)


def put_arguments(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["model_args"].update(values)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another program": (drop(KEY), "says nothing under image_classifier: another program wrote it"),
    "description": (put(**{KEY: {"version": 1}}), "what it says of its model cannot be read"),
    "later version": (put(**{KEY: {"version": 9}}), "written by another version of this program"),
    "no description": (put(**{KEY: "x"}), "what it says of its model cannot be read"),
    "architecture": (put(architecture="test_vit"), "do not fit|cannot be opened|belong"),
    "no architecture": (drop("architecture"), "cannot be opened"),
    "a place": (put(architecture="local-dir:/tmp/model"), "the network is no architecture"),
    "a hub": (put(architecture="hf-hub:someone/model"), "the network is no architecture"),
    "unknown": (put(architecture="test_resnet9"), "timm has no such model"),
    "a file": (put_arguments(checkpoint_path="/tmp/x.pth"), "model_args.checkpoint_path"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_open_folder_refuses_what_is_no_export(damage: str, folder: Path, photos: Path) -> None:
    change, message = DAMAGES[damage]
    write(order_of(small_model("timm/test_resnet", photos, image_size=32)), folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        open_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "the folder holds no config.json"),
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b"[]", "says nothing under image_classifier"),
        ("config.json", b"\xff\xfe", "config.json is damaged"),
        ("model.safetensors", None, "the folder holds no model.safetensors"),
        ("model.safetensors", b"PK", "cannot be opened"),
    ],
)
def test_open_folder_refuses_damaged_files(
    name: str, content: bytes | None, message: str, folder: Path, photos: Path
) -> None:
    write(order_of(small_model("timm/test_resnet", photos, image_size=32)), folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        open_folder(folder)
    assert str(caught.value).endswith("Give a folder that --export huggingface wrote.")


def test_open_folder_runs_no_code_that_a_folder_names(
    tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = small_model(transformers_name(tmp_path / "vit", "vit", **SMALL_VIT), photos)
    write(order_of(model), folder)
    (folder / "evil.py").write_text("raise SystemExit('it ran')\nclass Evil: pass\n")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"},
        "attn_implementation": "someone/kernel",
    }
    file.write_text(json.dumps(config), encoding="utf-8")
    route = open_folder(folder, device="cpu")
    found = route.probabilities(prepared(photos, route.description.preprocessing))
    np.testing.assert_allclose(found, told_by_checkpoint(model, photos), atol=1e-5)


def test_open_folder_refuses_weights_of_another_model(
    tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = small_model(transformers_name(tmp_path / "vit", "vit", **SMALL_VIT), photos)
    write(order_of(model), folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["num_hidden_layers"] += 1
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="does not hold the weights of this model"):
        open_folder(folder)
