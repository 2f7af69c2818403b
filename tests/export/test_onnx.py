"""ONNX files say what the classifier says, and carry what they need."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from classifier import ImageClassifier
from classifier.errors import ConfigError, RunError
from classifier.export import onnx as writer
from classifier.inference.description import KEY, Description
from classifier.inference.onnx_route import OnnxRoute, open_onnx
from tests.export.making import BATCHES, answers_of, model_of, order_of, pixels_of
from tests.model.test_families import TIMM, write_config


class Moody(nn.Module):
    """A network that does with an image what the image tells it."""

    image_size = 32

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images).mean((2, 3))
        if hidden.sum() > 0:
            hidden = -hidden
        logits: torch.Tensor = self.head(hidden)
        return logits


def check(model: ImageClassifier, route: OnnxRoute, atol: float = 1e-5) -> None:
    for number in BATCHES:
        pixels = pixels_of(model, number)
        found, expected = route.probabilities(pixels), answers_of(model, pixels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=atol)
    assert expected.std(0).max() > 0.05, "all images are alike: nothing was compared"


def written(model: ImageClassifier, folder: Path, **order: Any) -> tuple[Description, OnnxRoute]:
    description = writer.write(order_of(model, **order), folder)
    route = open_onnx(folder / "model.onnx")
    assert route.description == description
    return description, route


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "vit_tiny_patch16_224"])
def test_file_answers_as_the_classifier_when_the_network_is_of_timm(
    tmp_path: Path, name: str
) -> None:
    arguments, size = TIMM[name]
    model = model_of(f"timm/{name}", image_size=size, model_args=arguments)
    check(model, written(model, tmp_path)[1])
    # The exporter imitates strides by computed indices; a plain graph has no need of them.
    assert not {"Range", "ScatterND"} & set(operators(tmp_path / "model.onnx"))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_file_answers_as_the_classifier_when_the_network_is_of_transformers(
    tmp_path: Path, kind: str
) -> None:
    model = model_of(write_config(tmp_path / kind, kind))
    check(model, written(model, tmp_path)[1])


def test_file_answers_as_the_classifier_when_images_are_floats_and_labels_several(
    tmp_path: Path,
) -> None:
    model = model_of(task="multilabel", head={"hidden": [8]})
    description, route = written(model, tmp_path, input="float", thresholds=[0.4, 0.5, 0.6])
    assert description.several and description.thresholds == [0.4, 0.5, 0.6]
    check(model, route, atol=1e-4)


def test_weights_are_in_half_and_answers_near_when_precision_is_fp16(tmp_path: Path) -> None:
    model = model_of()
    check(model, written(model, tmp_path, precision="fp16")[1], atol=0.01)
    graph = onnx.load(tmp_path / "model.onnx").graph
    large = {w.data_type for w in graph.initializer if np.prod(w.dims) > 100}
    assert large == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    # The order's own network is the checkpoint's still, with which the file is compared.
    assert model.network is not None and model.network.channels_last
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_weights_are_integers_when_precision_is_int8(tmp_path: Path) -> None:
    model = model_of("timm/test_convnext")
    description, route = written(model, tmp_path, precision="int8")
    check(model, route, atol=0.05)
    found = operators(tmp_path / "model.onnx")
    assert found["MatMulInteger"] and found["ConvInteger"]
    depthwise = sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels for m in model.modules())
    assert found["Conv"] == depthwise > 0
    assert description.software["onnxruntime"]


@pytest.mark.parametrize("opset", [18, 23])
def test_file_has_the_opset_that_is_asked_for(tmp_path: Path, opset: int) -> None:
    model = model_of()
    description, route = written(model, tmp_path, opset=opset)
    check(model, route)
    [default] = [o.version for o in onnx.load(tmp_path / "model.onnx").opset_import if not o.domain]
    assert default == description.opset == opset


@pytest.mark.parametrize("opset", [0, 17, 24])
def test_opset_is_refused_when_it_cannot_be_written(tmp_path: Path, opset: int) -> None:
    expected = f"^--opset: must be from 18 to 23, got {opset}. Leave it out for 20"
    with pytest.raises(ConfigError, match=expected):
        writer.write(order_of(model_of(), opset), tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_is_valid_and_says_nothing_of_the_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = list(logging.getLogger().handlers)
    written(model_of(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers and logging.root.manager.disable == 0
    file = tmp_path / "model.onnx"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["probabilities"]
    first = model.graph.input[0].type.tensor_type.shape.dim
    assert first[0].dim_param and [d.dim_value for d in first[1:]] == [32, 32, 3]
    content = file.read_bytes()
    for word in (b"site-packages", b"graph.py", str(Path.cwd()).encode(), b"stack_trace"):
        assert word not in content


def test_metadata_is_whole_and_readable_by_other_tools(tmp_path: Path) -> None:
    model = model_of()
    description, _ = written(model, tmp_path, background=(1, 2, 3), software={"classifier": "1"})
    found = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert Description.from_json(found.pop(KEY)) == description
    assert description.temperature == 1.5 and description.opset == 20
    assert description.software == {"classifier": "1", **description.software}
    assert description.software["torch"] == torch.__version__
    assert {key: json.loads(text) for key, text in found.items()} == {
        "names": {"0": "ant", "1": "bee, wild", "2": "Käfer"},
        "imgsz": [32, 32],
        "mean": list(model.preprocessing.mean),
        "std": list(model.preprocessing.std),
        "task": "multiclass",
    }


def test_weights_lie_beside_the_file_when_they_are_too_many_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_IN_ONE_FILE", 1000)
    model = model_of()
    with pytest.raises(ConfigError, match=r"^--precision: int8 takes .* got 'int8'. Write fp16"):
        writer.write(order_of(model, precision="int8"), tmp_path)
    check(model, written(model, tmp_path)[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx\.data.*with all files beside it"):
        open_onnx(tmp_path / "model.onnx")


def test_error_says_why_when_the_exporter_cannot_write_the_network(tmp_path: Path) -> None:
    model = model_of("tests.export.test_onnx.Moody", image_size=None)
    with pytest.raises(RunError, match=r"as ONNX \(.*data-dependent.*\)\. Another format"):
        writer.write(order_of(model), tmp_path)
    assert not list(tmp_path.iterdir())
