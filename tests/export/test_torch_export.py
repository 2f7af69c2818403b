"""Graphs of torch.export and of TorchScript, against the network that they came from."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier.errors import RunError
from classifier.export import torch_export, torchscript
from classifier.formats import FILES
from classifier.inference.exported_route import open_exported
from classifier.model.network import Network
from classifier.preprocessing import Preprocessing
from tests.export.orders import CLASS_NAMES, expected, noise, order_of, small_network
from tests.export.test_safetensors import NAMES, family
from tests.model.test_families import thin_vision_transformers  # noqa: F401

WRITERS: dict[str, ModuleType] = {"torch_export": torch_export, "torchscript": torchscript}


def answers(network: Network, folder: Path, format: str, number: int, **changes: Any) -> Any:
    """Written, opened, and asked."""
    description = WRITERS[format].write(order_of(network, format, **changes), folder)
    assert [item.name for item in folder.iterdir()] == [FILES[format]]
    route = open_exported(folder / FILES[format], format)
    assert route.description == description
    assert description.class_names == CLASS_NAMES
    return route.probabilities(noise(network, number))


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize(
    ("changes", "temperature", "several"),
    [
        ({}, 1.0, False),
        ({"input": "float", "temperature": 2.5}, 2.5, False),
        ({"task": "multilabel", "thresholds": [0.5, 0.4, 0.3]}, 1.0, True),
    ],
)
def test_file_answers_as_the_network_for_a_batch_of_any_size(
    tmp_path: Path, format: str, changes: dict[str, Any], temperature: float, several: bool
) -> None:
    network = small_network()
    for number in (1, 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = answers(network, folder, format, number, **changes)
        images = noise(network, number)
        assert np.allclose(found, expected(network, images, temperature, several), atol=1e-6)


@pytest.mark.parametrize("format", WRITERS)
def test_half_precision_halves_the_file_and_is_near(tmp_path: Path, format: str) -> None:
    network = small_network()
    size = sum(value.numel() * 4 for value in network.parameters())
    found = answers(network, tmp_path, format, 3, precision="fp16")
    assert (tmp_path / FILES[format]).stat().st_size < 0.8 * size
    assert found.dtype == np.float32
    difference = np.abs(found - expected(network, noise(network, 3)))
    assert 0 < difference.max() < 1e-2
    assert network.model.fc.weight.dtype == torch.float32  # the network stays as it was


@pytest.mark.parametrize("format", WRITERS)
def test_threads_get_their_own_answers_when_they_share_a_graph(tmp_path: Path, format: str) -> None:
    network = small_network()
    WRITERS[format].write(order_of(network, format), tmp_path)
    route = open_exported(tmp_path / FILES[format], format)
    batches = [noise(network, 1 + seed % 3, seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(route.probabilities, batches))
    for images, probabilities in zip(batches, found, strict=True):
        assert np.allclose(probabilities, expected(network, images), atol=1e-6)


@pytest.mark.parametrize("format", WRITERS)
def test_file_tells_nothing_of_the_machine_that_wrote_it(tmp_path: Path, format: str) -> None:
    WRITERS[format].write(order_of(small_network(), format), tmp_path)
    content = (tmp_path / FILES[format]).read_bytes()
    for text in (b"site-packages", str(Path.cwd()).encode(), str(Path.home()).encode()):
        assert text not in content


def test_plain_torch_opens_the_files_without_this_program(tmp_path: Path) -> None:
    network = small_network()
    for format, writer in WRITERS.items():
        writer.write(order_of(network, format), tmp_path)
    images = noise(network, 3)
    np.save(tmp_path / "images.npy", images)
    script = """
import sys, json, numpy as np, torch
images = torch.from_numpy(np.load("images.npy"))
extra = {"image_classifier.json": ""}
program = torch.export.load("model.pt2", extra_files=extra)
script = torch.jit.load("model.torchscript", _extra_files=(more := {"image_classifier.json": ""}))
assert json.loads(extra["image_classifier.json"])["class_names"][0] == "blue"
assert json.loads(more["image_classifier.json"])["class_names"][0] == "blue"
with torch.no_grad():
    np.savez("found.npz", program.module()(images).numpy(), script(images).numpy())
assert not any(name.startswith("classifier") for name in sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, env={"OMP_NUM_THREADS": "1"}
    )
    for probabilities in np.load(tmp_path / "found.npz").values():
        assert np.allclose(probabilities, expected(network, images), atol=1e-6)


class Stubborn(nn.Module):
    """Does otherwise for one image than for several."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.head(images.mean((2, 3)))
        if len(images) == 1:
            return -pooled
        return pooled


class Reading(Stubborn):
    """Decides by what it sees, which no graph can."""

    def forward(self, images: Tensor) -> Tensor:
        if float(images.mean()) > 0:
            raise ValueError("too bright")
        return super().forward(images)


@pytest.mark.parametrize(
    ("format", "module", "message"),
    [
        ("torch_export", Reading, r"^torch.export cannot write this network \(.+\)\. Use another"),
        ("torchscript", Stubborn, r"^the network cannot be traced to TorchScript \(the trace "
         r"answers otherwise for 1 images than for two\)\. Use another format: onnx"),
        ("torchscript", Reading, r"^the network cannot be traced to TorchScript \(too bright\)"),
    ],
)  # fmt: skip
def test_network_that_no_graph_can_follow_is_told_in_one_line(
    tmp_path: Path, format: str, module: type[nn.Module], message: str
) -> None:
    torch.manual_seed(0)
    network = Network(module(), Preprocessing(size=(8, 8)), {"source": "module"}, []).eval()
    with pytest.raises(RunError, match=message) as caught:
        WRITERS[format].write(order_of(network, format), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.usefixtures("thin_vision_transformers")
@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("name", NAMES)
def test_family_answers_the_same_from_a_graph(name: str, format: str, tmp_path: Path) -> None:
    network = family(name, tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    found = answers(network, folder, format, 5)
    assert np.allclose(found, expected(network, noise(network, 5)), atol=1e-5)
