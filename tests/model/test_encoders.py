from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import AutoConfig, AutoModelForImageClassification

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model import encoders
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.layer_groups import group_by_block
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.preprocessing import Preprocessing
from tests.model.hub import Hub
from tests.model.test_families import TRANSFORMERS

SMALL = ("vit", "deit", "beit", "swin", "resnet", "convnext")
PROCESSOR = {
    "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 3,
    "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
}  # fmt: skip


def write_transformers(folder: Path, kind: str = "vit", num_labels: int = 4) -> Path:
    config = AutoConfig.for_model(kind, **TRANSFORMERS[kind], num_labels=num_labels)
    config.architectures = []
    torch.manual_seed(1)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def write_timm(folder: Path, name: str = "test_resnet", num_classes: int = 4) -> Path:
    torch.manual_seed(1)
    save_for_hf(
        timm.create_model(name, num_classes=num_classes), str(folder), safe_serialization=True
    )
    return folder


@pytest.mark.parametrize("kind", SMALL)
def test_transformers_folder_trains_and_comes_back_without_it(tmp_path: Path, kind: str) -> None:
    network = build_network(
        str(write_transformers(tmp_path / kind, kind)), 3, NetworkOptions(pretrained=True)
    )
    groups = network.layer_groups()
    grouped = {name for group in groups for name in group.parameters}
    head = {name for name, _ in network.named_parameters()} - grouped
    assert all("classifier" in name for name in head) and head
    assert len(groups) >= 4
    images = torch.rand(2, 3, 32, 32)
    assert network(images).shape == (2, 3)
    again = rebuild_network(json.loads(json.dumps(network.spec)), 3)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images), network.eval()(images))


def test_transformers_weights_and_preprocessing_are_those_of_the_folder(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "vit", "vit", num_labels=4)
    network = build_network(str(folder), 4, NetworkOptions(pretrained=True))
    original = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(network.eval()(images), original(images).logits)
    assert network.preprocessing.size == (32, 32)
    assert network.preprocessing.resize_mode == "squash"
    assert network.preprocessing.interpolation == "bicubic"
    assert network.preprocessing.mean == (0.1, 0.2, 0.3)
    random = build_network(str(folder), 4, NetworkOptions(pretrained=False))
    assert not torch.allclose(random.eval()(images), original(images).logits)


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "vit")
    AutoModelForImageClassification.from_pretrained(folder).half().save_pretrained(folder)
    network = build_network(str(folder), 4, NetworkOptions(pretrained=True))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_timm_folder_gives_its_own_weights(tmp_path: Path) -> None:
    folder = write_timm(tmp_path / "model")
    network = build_network(str(folder), 4, NetworkOptions(pretrained=True))
    original = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(network.eval()(images), original(images))
    again = rebuild_network(json.loads(json.dumps(network.spec)), 4)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images), network.eval()(images))


def test_timm_preprocessing_is_timms_own() -> None:
    preprocessing = build_network(
        "timm/vit_tiny_patch16_224", 3, NetworkOptions(pretrained=False)
    ).preprocessing
    assert preprocessing.size == (224, 224)
    assert preprocessing.resize == (248, 248)
    assert preprocessing.mean == (0.5, 0.5, 0.5)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder holds no config\.json"):
        build_network(str(tmp_path), 3, NetworkOptions(pretrained=True))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="names neither a timm architecture nor"):
        build_network(str(tmp_path), 3, NetworkOptions(pretrained=True))


def test_remote_code_is_never_run_and_never_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    (tmp_path / "evil.py").write_text("open('marker', 'w')")
    with pytest.raises(ConfigError, match="could not be loaded"):
        build_network(str(tmp_path), 3, NetworkOptions(pretrained=True))


def test_pixels_are_normalised_on_the_device() -> None:
    model = ImageClassifier("timm/test_resnet", pretrained=False, num_classes=3)
    model.build()
    model.eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor(model.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(model.preprocessing.std).view(1, 3, 1, 1)
    by_hand = (pixels.float() / 255 - mean) / std
    assert torch.allclose(model(pixels), model(by_hand), atol=1e-5)


HUB_SCRIPT = """
import sys
from classifier.model.encoders import build_network
from classifier.model.options import NetworkOptions
import torch
torch.manual_seed(0)
network = build_network(sys.argv[1], 4, NetworkOptions(pretrained=True))
print(network.eval()(torch.full((1, 3, 32, 32), 0.5)).flatten().tolist())
"""


def _from_hub(name: str, hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home)}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", HUB_SCRIPT, name]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=120, check=False
    )


def _logits(output: str) -> list[float]:
    values: list[float] = json.loads(output.strip().splitlines()[-1])
    return values


def test_hub_models_load_over_http_and_then_from_the_cache(tmp_path: Path) -> None:
    write_transformers(tmp_path / "hub/someone/small-vit")
    write_timm(tmp_path / "hub/someone/small-resnet")
    hub = Hub(tmp_path / "hub")
    for name in ("someone/small-vit", "someone/small-resnet"):
        done = _from_hub(name, hub, tmp_path / "home")
        assert done.returncode == 0, done.stderr
        network = build_network(str(tmp_path / "hub" / name), 4, NetworkOptions(pretrained=True))
        expected = network.eval()(torch.full((1, 3, 32, 32), 0.5)).flatten()
        assert torch.allclose(torch.tensor(_logits(done.stdout)), expected, atol=1e-5)
        assert any(path.endswith("model.safetensors") for path in hub.requests)
    hub.close()
    done = _from_hub("someone/small-vit", hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr


def test_unknown_hub_model_is_told_in_words(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    done = _from_hub("someone/nothing", hub, tmp_path / "home")
    hub.close()
    assert "model.init_args.model_name: could not be loaded" in done.stderr


def build(location: str, num_classes: int, options: NetworkOptions) -> Network:
    """What the module of a library more has."""
    model = timm.create_model(location, num_classes=num_classes)
    spec = {"source": "mine", "location": location}
    return Network(model, Preprocessing(), spec, group_by_block(model, "fc"))


def rebuild(spec: Any, num_classes: int) -> Network:
    return build(spec["location"], num_classes, NetworkOptions(pretrained=False))


def test_library_is_found_by_its_prefix_when_it_has_a_line_in_the_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(encoders._SOURCES, "mine", __name__)
    network = build_network("mine/test_resnet", 3, NetworkOptions())
    again = rebuild_network(json.loads(json.dumps(network.spec)), 3)
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), network.eval()(images))
    with pytest.raises(ConfigError, match="Write timm/<name>, torchvision/<name>, mine/<name>, <o"):
        build_network("test_resnet", 3, NetworkOptions())
