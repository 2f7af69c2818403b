"""Weights as safetensors, and the network that is rebuilt from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from classifier.errors import ConfigError
from classifier.export.safetensors import write
from classifier.inference.weights_route import open_weights
from classifier.model.lora import merge_adapters
from classifier.model.network import Network
from classifier.preprocessing import Preprocessing
from tests.export.orders import CLASS_NAMES, expected, noise, order_of, small_network
from tests.model.test_families import (
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    VIT,
    thin_vision_transformers,  # noqa: F401
    write_config,
)
from tests.model.test_lora import shake

FILE = "model.safetensors"
NAMES = [f"timm/{name}" for name in TIMM] + list(TRANSFORMERS)
NAMES += [f"torchvision/{name}" for name in TORCHVISION]


def family(name: str, folder: Path) -> Network:
    """A network of tests/model/test_families.py by its name."""
    library, _, rest = name.partition("/")
    if library == "timm":
        arguments, size = TIMM[rest]
        return small_network(name, model_args=arguments, image_size=size)
    if library == "torchvision":
        thin, side = TORCHVISION[rest]
        return small_network(name, model_args=thin, image_size=side)
    return small_network(write_config(folder / name, name), image_size=32)


def check_round_trip(network: Network, folder: Path) -> None:
    """What is read answers as what was written, and knows of itself what it was told."""
    order = order_of(network, "safetensors", temperature=1.7)
    written = write(order, folder)
    route = open_weights(folder / FILE, device="cpu")
    assert route.description == written
    assert route.description.class_names == CLASS_NAMES
    images = noise(network, 3)
    assert np.allclose(route.probabilities(images), expected(network, images, 1.7), atol=1e-5)


@pytest.mark.usefixtures("thin_vision_transformers")
@pytest.mark.parametrize("name", NAMES)
def test_family_answers_the_same_from_a_file_of_weights(name: str, workplace: Path) -> None:
    check_round_trip(family(name, workplace), workplace)


def test_merged_adapters_answer_as_those_that_stand_beside_their_layers(workplace: Path) -> None:
    network = small_network(
        "timm/vit_tiny_patch16_224", model_args=VIT, image_size=32, lora={"r": 2}
    )
    shake(network)
    images = noise(network, 3)
    before = expected(network, images)
    merge_adapters(network)
    merge_adapters(network)  # a second time there is nothing to do
    write(order_of(network, "safetensors"), workplace)
    found = open_weights(workplace / FILE, device="cpu").probabilities(images)
    assert np.allclose(found, before, atol=1e-5)


def test_half_precision_halves_the_file_and_computes_in_single(workplace: Path) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    whole = (workplace / FILE).stat().st_size
    write(order_of(network, "safetensors", precision="fp16"), workplace)
    assert (workplace / FILE).stat().st_size < 0.6 * whole
    rounded = small_network()
    for name, value in rounded.state_dict().items():
        if value.is_floating_point():
            value.copy_(network.state_dict()[name].half().float())
    images = noise(network, 3)
    found = open_weights(workplace / FILE, device="cpu").probabilities(images)
    assert np.allclose(found, expected(rounded, images), atol=1e-6)


def test_weights_that_layers_share_are_written_for_each(workplace: Path) -> None:
    network = small_network("timm/vit_tiny_patch16_224", model_args=VIT, image_size=32)
    network.model.blocks[1].mlp.fc1.weight = network.model.blocks[0].mlp.fc1.weight
    check_round_trip(network, workplace)


def test_other_programs_can_read_the_weights_and_the_header(workplace: Path) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    with safe_open(workplace / FILE, framework="np") as stored:
        about = json.loads(stored.metadata()["image_classifier"])
        names = set(stored.keys())
        weight = stored.get_tensor("model.fc.weight")
    assert names == set(network.state_dict())
    assert np.array_equal(weight, network.model.fc.weight.detach().numpy())
    assert about["class_names"] == CLASS_NAMES
    assert about["network"]["architecture"] == "test_resnet"
    assert about["software"]["torch"] == torch.__version__


def test_network_of_the_users_own_is_refused_when_weights_are_written(workplace: Path) -> None:
    spec = {"source": "module", "class_path": "mine.Net", "model_args": {}}
    network = Network(nn.Linear(2, 2), Preprocessing(), spec, [])
    with pytest.raises(ConfigError, match="Export to onnx, torch_export or torchscript") as caught:
        write(order_of(network, "safetensors"), workplace)
    assert caught.value.key == "--export"
    assert not list(workplace.iterdir())


def test_network_of_the_users_own_is_never_imported_from_weights(workplace: Path) -> None:
    (workplace / "evil.py").write_text("raise SystemExit('imported')")
    about = order_of(small_network(), "safetensors").description
    spec = {"source": "module", "class_path": "evil.N"}
    metadata = {"image_classifier": replace(about, network=spec).to_json()}
    save_file({"x": torch.ones(1)}, workplace / FILE, metadata=metadata)
    with pytest.raises(ConfigError, match="is code of your own, which is not imported here"):
        open_weights(workplace / FILE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is damaged, or is no safetensors file"),
        (b"hello, I am a text", "the file is damaged, or is no safetensors file"),
        (None, "the file holds weights of another program"),
        ("{}", r"cannot be read \(written by another version of this program\)"),
        ("[", "what it says of its model cannot be read"),
    ],
)
def test_file_that_is_no_export_is_told_in_words(
    workplace: Path, content: Any, message: str
) -> None:
    if isinstance(content, bytes):
        (workplace / FILE).write_bytes(content)
    else:
        metadata = None if content is None else {"image_classifier": content}
        save_file({"x": torch.ones(1)}, workplace / FILE, metadata=metadata)
    with pytest.raises(ConfigError, match=message):
        open_weights(workplace / FILE)


def test_file_cut_short_is_told_in_words(workplace: Path) -> None:
    write(order_of(small_network(), "safetensors"), workplace)
    content = (workplace / FILE).read_bytes()
    (workplace / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="the file is damaged"):
        open_weights(workplace / FILE)
