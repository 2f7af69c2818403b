"""Every family of encoders: built, frozen, trained for a step, saved, rebuilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vision_transformer
from transformers import AutoConfig

from classifier import ImageClassifier
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.freezing import num_frozen_groups
from classifier.model.options import NetworkOptions

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM: dict[str, tuple[dict[str, Any], int | None]] = {
    "test_resnet": ({}, 32),
    "resnet10t": ({}, 32),
    "efficientnet_b0": ({}, 32),
    "vgg11_bn": ({"mlp_ratio": 0.01}, 32),
    "inception_v3": ({}, 75),
    "mobilenetv2_100": ({}, 32),
    "mobilenetv3_small_050": ({}, 32),
    "vit_tiny_patch16_224": (VIT, 32),
    "deit_tiny_patch16_224": (VIT, 32),
    "deit_tiny_distilled_patch16_224": (VIT, 32),
    "swin_tiny_patch4_window7_224": (
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}, 56,
    ),
    "test_convnext": ({}, 32),
    "beit_base_patch16_224": (VIT, 32),
}  # fmt: skip
SMALL_VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "patch_size": 8, "image_size": 32,
}  # fmt: skip
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit": SMALL_VIT,
    "deit": SMALL_VIT,
    "beit": SMALL_VIT,
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
             "image_size": 32},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "image_size": 32},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128, "initializer_range": 0.3,
                     "image_size": 32},
    "dinov2": SMALL_VIT,
    "clip_vision_model": SMALL_VIT,
    "vit_mae": SMALL_VIT,
}  # fmt: skip
TORCHVISION: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({}, 32),
    "efficientnet_b0": ({}, 32),
    "inception_v3": ({"init_weights": False}, 75),
    "googlenet": ({"init_weights": False}, 32),
    "mobilenet_v2": ({"width_mult": 0.25}, 32),
    "mobilenet_v3_small": ({}, 32),
    "vit_b_16": ({}, 32),
    "swin_t": ({}, 32),
    "convnext_tiny": ({}, 32),
    "squeezenet1_1": ({}, 32),
}


class Mixer(nn.Module):
    """An encoder of the user's own, with a position embedding of its own."""

    image_size = 32

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.stem(images) + self.position
        for block in self.blocks:
            hidden = F.gelu(block(hidden))
        logits: torch.Tensor = self.out(self.norm(hidden).mean((2, 3)))
        return logits


@pytest.fixture
def thin_vision_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's vision transformers of three blocks and 16 features, for their size is fixed."""
    make = vision_transformer._vision_transformer

    def thin(**arguments: Any) -> Any:
        small = {"num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
        return make(**{**arguments, **small})

    monkeypatch.setattr(vision_transformer, "_vision_transformer", thin)


def write_config(folder: Path, kind: str) -> str:
    config = AutoConfig.for_model(kind, **TRANSFORMERS[kind])
    config.save_pretrained(folder)
    return str(folder)


def built(name: str, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    model = ImageClassifier(name, pretrained=False, num_classes=3, freeze_encoder=0.5, **options)
    model.build()
    return model


def check_training(model: ImageClassifier) -> None:
    """Frozen parameters stay, all others move; the saved network gives the same predictions."""
    network = model.network
    assert network is not None
    groups = network.layer_groups()
    assert len(groups) >= 3
    frozen = {
        name for group in groups[: num_frozen_groups(0.5, len(groups))] for name in group.parameters
    }
    head = {name for name, _ in network.named_parameters()}
    head -= {name for group in groups for name in group.parameters}
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    images = torch.randn(4, 3, *network.preprocessing.size)
    model.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # residual branches of timm and heads of torchvision begin with zeros
        loss: Any = F.cross_entropy(model(images), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        optimizer.step()
    no_gradient = {n for n, p in network.named_parameters() if p.requires_grad and p.grad is None}
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert not moved & frozen
    assert head and head <= moved
    assert not no_gradient, no_gradient
    later = {name for group in groups[len(groups) // 2 + 1 :] for name in group.parameters}
    assert len(later & moved) > 0.5 * len(later)  # where ReLUs are dead, nothing moves

    again = rebuild_network(json.loads(json.dumps(network.spec)), 3)
    assert again.channels_last == network.channels_last
    again.load_state_dict(network.state_dict())
    assert again.preprocessing == network.preprocessing
    assert [g.parameters for g in again.layer_groups()] == [g.parameters for g in groups]
    with torch.no_grad():
        assert torch.allclose(again.eval()(images), network.eval()(images), atol=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_timm_encoder_trains_and_comes_back(name: str) -> None:
    arguments, size = TIMM[name]
    check_training(built(f"timm/{name}", model_args=arguments, image_size=size))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_encoder_trains_and_comes_back(tmp_path: Path, kind: str) -> None:
    check_training(built(write_config(tmp_path / kind, kind), image_size=32))


@pytest.mark.usefixtures("thin_vision_transformers")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_encoder_trains_and_comes_back(name: str) -> None:
    arguments, size = TORCHVISION[name]
    check_training(built(f"torchvision/{name}", model_args=arguments, image_size=size))


@pytest.mark.parametrize("width", [8, 12])
def test_own_module_trains_and_comes_back(width: int) -> None:
    model = built(f"{__name__}.Mixer", model_args={"width": width})
    check_training(model)
    assert model.network is not None
    names = [group.name for group in model.network.layer_groups()]
    assert names == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert model.network.model.stem.out_channels == width


GROUPS = {
    "vgg11_bn": ("features.0", "features.4", "classifier.3", "classifier.6"),
    "densenet121": ("features.conv0", "features.denseblock1.denselayer1",
                    "features.denseblock4.denselayer16", "classifier"),
    "mnasnet0_5": ("layers.0", "layers.3", "layers.14", "classifier.1"),
    "resnet50": ("conv1", "layer1.0", "layer4.2", "fc"),
    "vit_b_32": ("conv_proj", "encoder.layers.encoder_layer_0",
                 "encoder.layers.encoder_layer_11", "heads.head"),
    "swin_s": ("features.0.0", "features.1.0", "features.7.1", "head"),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_torchvision_groups_are_blocks_from_the_input_to_the_output(name: str) -> None:
    with torch.device("meta"):
        network = build_network(f"torchvision/{name}", 3, NetworkOptions(pretrained=False))
    groups = network.layer_groups()
    first, second, last, head = GROUPS[name]
    names = [group.name for group in groups]
    assert (names[0], names[1], names[-1]) == (first, second, last)
    grouped = [parameter for group in groups for parameter in group.parameters]
    assert len(grouped) == len(set(grouped))
    rest = {parameter for parameter, _ in network.named_parameters()} - set(grouped)
    assert rest == {f"model.{head}.weight", f"model.{head}.bias"}
