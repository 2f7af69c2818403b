"""What a file says of itself is not believed when it cannot be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import onnx
import pytest
from safetensors.torch import load_file, save_file

from classifier import Predictor
from classifier.errors import ConfigError
from classifier.export import huggingface, safetensors, torch_export, torchscript
from classifier.export import onnx as onnx_writer
from classifier.formats import FILES
from classifier.image_steps import Crop, Pad, Scale
from classifier.inference.description import KEY, Description
from classifier.preprocessing import Preprocessing
from tests.export.orders import order_of, small_network

STEPS = (
    Scale(32, None, "cover", "area", "lanczos4"), Pad(40, 40, fill=(1, 2, 3)),
    Pad(None, None, 8, 8), Crop(32, 32),
)  # fmt: skip
DEEP = '{"version": 1, "network": ' + "[" * 100_000
WRONG: list[tuple[str, Any, str]] = [
    *[("class_names", value, "different names") for value in (
        None, [1, 2], "abcd", [], ["a", "a"], ["a", "\ud800"],
    )],
    ("task", ["x"], "multiclass or multilabel"),
    ("task", "other", "multiclass or multilabel"),
    ("positive", 99, "positive must be 0 or 1"),
    ("positive", 1, "positive is for two classes"),
    ("thresholds", "x", "thresholds must be a list"),
    ("thresholds", [0.5], "thresholds must be 0 numbers"),
    ("thresholds", [0.0], "above 0 and below 1"),
    ("background", ["a"], "background must be three"),
    ("background", [0, 0, 256], "background must be three"),
    *[("temperature", value, "above 0") for value in (0, float("nan"), "x", True, 10**400)],
    ("input", "int4", "uint8 or float"),
    ("precision", "fp4", "fp32"),
    ("opset", "x", "opset"),
    ("network", None, "network must be a mapping"),
    ("software", {"torch": 2}, "software"),
    ("preprocessing", [], "preprocessing must be a mapping"),
    ("preprocessing.interpolation", "foo", "nearest"),
    ("preprocessing.resize_mode", "foo", "crop, squash or pad"),
    ("preprocessing.crop_offset", "up", "even or down"),
    *[("preprocessing.resize", value, "from 1 to 8192") for value in (
        [64, "x"], [0, 0], [200_000, 200_000], [64], 64, [64, True],
    )],
    ("preprocessing.size", [200_000, 8], "from 1 to 8192"),
    ("preprocessing.mean", [0.5, 0.5], "mean must be three numbers"),
    ("preprocessing.mean", [0.5, 0.5, "x"], "mean must be three numbers"),
    ("preprocessing.std", [0.5, 0.5, 0], "std must be three numbers"),
    ("preprocessing.other", 1, "'other' is not known"),
    ("preprocessing.steps", 5, "steps must be a list"),
    ("preprocessing.steps", [5], "Scale, Crop or Pad"),
    ("preprocessing.steps", [{"step": "Crop", "height": "a", "width": 1}], "steps.0.height"),
    ("preprocessing.steps", [{"step": "Crop", "height": 1}], "steps.0.width is missing"),
    ("preprocessing.steps", [{"step": "Crop", "height": 1, "width": 1, "x": 1}], "not known"),
    ("preprocessing.steps", [{"step": "Exec", "code": "x"}], "Scale, Crop or Pad"),
    ("other", 1, "'other' is not known"),
    ("steps", [], "'steps' is not known"),
]  # fmt: skip


def described(**changes: Any) -> dict[str, Any]:
    preprocessing = Preprocessing(steps=STEPS)
    values = Description("onnx", ["a", "b", "c"], "multiclass", preprocessing, **changes).to_dict()
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(values)
    *parents, name = key.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    node[name] = value
    return tree


@pytest.mark.parametrize(("key", "value", "told"), WRONG)
def test_description_is_refused_when_a_value_cannot_be(key: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Description.from_json(json.dumps(changed(described(), key, value)))


@pytest.mark.parametrize("text", ["[]", "3", DEEP, "{", '{"version": 1}', '{"version": 2}', "null"])
def test_description_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        Description.from_json(text)


@pytest.mark.parametrize("thresholds", [None, [0.5], [0.5] * 4])
def test_multilabel_is_refused_when_a_class_has_no_threshold(thresholds: Any) -> None:
    values = described() | {"task": "multilabel", "thresholds": thresholds}
    with pytest.raises(ValueError, match="thresholds must be 3 numbers"):
        Description.from_dict(values)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"task": "multilabel", "thresholds": [0.1, 0.5, 0.9]}, {"class_names": ["only"]},
        {"class_names": ["a", "b"], "positive": 1, "thresholds": [0.3], "temperature": 1},
        {"input": "float", "precision": "int8", "opset": 18, "software": {"torch": "2.15"}},
    ],
)  # fmt: skip
def test_description_is_read_as_it_was_written(changes: dict[str, Any]) -> None:
    values = described() | changes
    read = Description.from_dict(values)
    assert json.loads(read.to_json()) == values
    assert Description.from_dict(read.to_dict()) == read


def rewrite_onnx(file: Path, text: str) -> None:
    model = onnx.load(file)
    for entry in model.metadata_props:
        entry.value = text if entry.key == KEY else entry.value
    onnx.save(model, file)


def rewrite_safetensors(file: Path, text: str) -> None:
    save_file(load_file(file), file, {KEY: text})


def rewrite_archive(file: Path, text: str) -> None:
    with ZipFile(file) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, text if name.endswith(f"extra/{KEY}.json") else data)


def rewrite_config(file: Path, text: str) -> None:
    config = json.loads(file.read_text())
    config[KEY] = "DESCRIPTION"
    file.write_text(json.dumps(config).replace('"DESCRIPTION"', text))


FORMATS: dict[str, tuple[Any, Callable[[Path, str], None]]] = {
    "onnx": (onnx_writer, rewrite_onnx),
    "torch_export": (torch_export, rewrite_archive),
    "torchscript": (torchscript, rewrite_archive),
    "safetensors": (safetensors, rewrite_safetensors),
    "huggingface": (huggingface, rewrite_config),
}


@pytest.mark.parametrize("form", FORMATS)
def test_file_is_refused_when_it_describes_what_cannot_be(tmp_path: Path, form: str) -> None:
    writer, rewrite = FORMATS[form]
    order = order_of(small_network(), form)
    if form == "huggingface":
        squashed = order.description.preprocessing.in_mode("squash")
        order = order_of(order.network, form, preprocessing=squashed)
    written = writer.write(order, tmp_path)
    file = tmp_path / (FILES[form] or "config.json")
    values = json.loads(written.to_json())
    for text, told in (
        (json.dumps(changed(values, "preprocessing.resize", [200_000, 1])), "from 1 to 8192"),
        (json.dumps(changed(values, "class_names", None)), "different names"),
        (DEEP + "]" * 100_000 + "}", "too deep|recursion"),
    ):
        kept = file.read_bytes()
        rewrite(file, text)
        with pytest.raises(ConfigError, match=f"ckpt_path: .*({told})"):
            Predictor.load(tmp_path if form == "huggingface" else file)
        file.write_bytes(kept)
    Predictor.load(tmp_path if form == "huggingface" else file)
