"""Where features lie in a grid, in every family; what comes of looking at the wrong place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classifier.errors import RunError
from classifier.model.encoders import build_network
from classifier.model.feature_maps import FeatureMap, find_feature_map
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from tests.model.test_families import VIT, write_config

SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
# name -> arguments, size of the image, rows and columns of the grid, tokens before it
PLACES: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, int], int]] = {
    "timm/test_resnet": ({}, (64, 96), (2, 3), 0),
    "timm/test_convnext": ({}, (64, 64), (2, 2), 0),
    "timm/mobilenetv3_small_050": ({}, (64, 64), (2, 2), 0),
    "timm/vit_tiny_patch16_224": (VIT, (32, 48), (2, 3), 1),
    "timm/deit_tiny_distilled_patch16_224": (VIT, (32, 32), (2, 2), 2),
    "timm/swin_tiny_patch4_window7_224": (SWIN, (56, 56), (7, 7), 0),
    "torchvision/resnet18": ({}, (64, 64), (2, 2), 0),
    "torchvision/squeezenet1_1": ({}, (64, 64), (3, 3), 0),
    "transformers/vit": ({}, (32, 32), (4, 4), 1),
    "transformers/swin": ({}, (32, 32), (4, 4), 0),
    "transformers/convnext": ({}, (32, 32), (4, 4), 0),
    "torchvision/swin_t": ({}, (64, 64), (2, 2), 0),
    "classifier.SmallCNN": ({"width": 4}, (32, 32), (2, 2), 0),
}  # fmt: skip


def network_of(name: str, size: tuple[int, int], arguments: dict[str, Any]) -> Network:
    torch.manual_seed(0)
    options = NetworkOptions(pretrained=False, model_args=arguments or None, image_size=list(size))
    return build_network(name, 3, options)


@pytest.mark.parametrize("name", PLACES)
def test_grid_is_found_when_all_is_frozen(name: str, tmp_path: Path) -> None:
    arguments, size, grid, prefix = PLACES[name]
    library, _, kind = name.partition("/")
    name = write_config(tmp_path, kind) if library == "transformers" else name
    network = network_of(name, size, arguments).requires_grad_(False)
    place = find_feature_map(network, torch.rand(1, 3, *size))
    assert place.size == grid
    assert place.layout.prefix == prefix


def test_features_pass_unchanged_when_a_seam_gives_them_back() -> None:
    for name in ("timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"):
        arguments, size, grid, _ = PLACES[name]
        network = network_of(name, size, arguments).eval()
        images = torch.rand(2, 3, *size)
        shapes: list[tuple[int, ...]] = []
        seam = nn.Identity()
        seam.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))  # noqa: B023
        with torch.no_grad(), find_feature_map(network, images).passing(seam):
            torch.testing.assert_close(network(images), without(network, images))
        assert shapes[0][0] == 2 and shapes[0][2:] == grid


def without(network: nn.Module, images: Tensor) -> Tensor:
    """Logits without any hook."""
    kept = {m: m._forward_hooks.copy() for m in network.modules()}
    for module in kept:
        module._forward_hooks.clear()
    logits: Tensor = network(images)
    for module, hooks in kept.items():
        module._forward_hooks.update(hooks)
    return logits


def test_place_is_behind_the_normalisation_when_a_class_token_is_read() -> None:
    """Before it, features times gradients add up to nothing: it scales each token alike."""
    arguments, size, _, _ = PLACES["timm/vit_tiny_patch16_224"]
    network = network_of("timm/vit_tiny_patch16_224", size, arguments).eval()
    images = torch.rand(2, 3, *size)
    place = find_feature_map(network, images)
    assert place.name.startswith("model.blocks.1.")
    before = FeatureMap("", network.get_submodule("model.blocks.0"), place.layout)
    shares = {}
    for key, one in (("place", place), ("before", before)):
        products = product(network, one, images)
        shares[key] = float(products.sum(1).abs().mean() / products.abs().sum(1).mean())
    assert shares["before"] < 1e-3 < shares["place"]


def product(network: nn.Module, place: FeatureMap, images: Tensor) -> Tensor:
    kept: list[Tensor] = []

    class Seam(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            kept.append(features.detach().clone().requires_grad_())
            return kept[0]

    with place.passing(Seam()):
        logits = network(images)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), kept)
    return (kept[0] * gradient).detach()


class Flat(nn.Module):
    """Mixes all places from the start."""

    image_size = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def test_network_is_refused_when_it_has_no_grid() -> None:
    with pytest.raises(RunError, match=r"^Flat: no layer was found whose output lies in a grid"):
        find_feature_map(Flat(3), torch.rand(1, 3, 8, 8))


class Gated(nn.Module):
    """A second path leads round every layer but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        both = self.left(features).relu_() * self.right(features).sigmoid()
        logits: Tensor = self.head(both.mean((2, 3)))
        return logits


def test_place_is_before_two_paths_when_neither_sees_all() -> None:
    network = Gated().train()
    place = find_feature_map(network, torch.rand(1, 3, 16, 16))
    assert (place.name, place.size) == ("stem", (4, 4))
    assert network.training
