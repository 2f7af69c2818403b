"""Maps mean something: they point at what decides the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from classifier.model.activation_maps import activation_maps
from classifier.model.feature_maps import find_feature_map
from classifier.model.network import Network
from tests.model.test_families import write_config
from tests.model.test_feature_maps import PLACES, network_of

SIDE = 32
HALF = SIDE // 2
TINY_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}


def patches(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright patch in one quadrant, whose colour is the class."""
    random = torch.Generator().manual_seed(seed)
    images = 0.5 * torch.randn(number, 3, SIDE, SIDE, generator=random)
    targets = torch.randint(0, 3, (number,), generator=random)
    quadrants = torch.randint(0, 4, (number,), generator=random)
    for image, target, quadrant in zip(images, targets, quadrants, strict=True):
        row, column = divmod(int(quadrant), 2)
        top, left = row * HALF + 4, column * HALF + 4
        image[target, top : top + 8, left : left + 8] += 4.0
    return images, targets, quadrants


def trained(network: Network, steps: int, lr: float) -> Network:
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    network.train()
    for step in range(steps):
        images, targets, _ = patches(32, seed=step)
        loss: Any = F.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def shares(maps: Tensor, quadrants: Tensor) -> Tensor:
    """How much of each map lies in its image's quadrant."""
    cells = F.avg_pool2d(maps[:, None], HALF).flatten(1)
    return (cells / cells.sum(1, keepdim=True).clamp_min(1e-9)).gather(1, quadrants[:, None])[:, 0]


# name -> arguments, steps, learning rate, least mean share of the quadrant; by chance it is 0.25
LEARNERS: dict[str, tuple[str, dict[str, Any], int, float, float]] = {
    "convolutional": ("classifier.SmallCNN", {"width": 8, "multipliers": [2, 2]}, 30, 5e-3, 0.6),
    "tokens averaged": (
        "timm/vit_tiny_patch16_224", {**TINY_VIT, "global_pool": "avg"}, 40, 3e-3, 0.6,
    ),
    "class token": ("timm/vit_tiny_patch16_224", TINY_VIT, 60, 3e-3, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEARNERS)
def test_map_lies_on_the_patch_when_the_patch_decides_the_class(kind: str) -> None:
    name, arguments, steps, lr, least = LEARNERS[kind]
    network = trained(network_of(name, (SIDE, SIDE), arguments), steps, lr)
    images, targets, quadrants = patches(64, seed=10_000)
    assert float((network(images).argmax(1) == targets).float().mean()) > 0.9
    place = find_feature_map(network, images)
    found = shares(activation_maps(network, place, images, targets.tolist()), quadrants)
    assert float(found.mean()) > least
    assert float(found.median()) > 0.5


@pytest.mark.parametrize("name", PLACES)
def test_map_has_the_size_of_the_image_in_every_family(name: str, tmp_path: Path) -> None:
    arguments, size, _, _ = PLACES[name]
    library, _, kind = name.partition("/")
    name = write_config(tmp_path, kind) if library == "transformers" else name
    network = network_of(name, size, arguments).requires_grad_(False).train()
    images = torch.rand(2, 3, *size)
    with torch.no_grad():  # as after an evaluation
        maps = activation_maps(network, find_feature_map(network, images), images, [0, 2])
    assert maps.shape == (2, *size) and maps.dtype == torch.float32 and not maps.requires_grad
    assert float(maps.min()) >= 0.0
    assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
    assert all(parameter.grad is None for parameter in network.parameters())


def test_map_is_the_class_activation_map_when_the_places_are_averaged() -> None:
    """Zhou et al. (2016): the head's weights of the class, applied to the features of each place."""
    network = network_of("timm/test_resnet", (96, 96), {}).eval()
    images = torch.rand(3, 3, 96, 96)
    maps = activation_maps(network, find_feature_map(network, images), images, [1, 1, 2])
    with torch.no_grad():
        features = network.model.forward_features(images)
    weights = network.model.get_classifier().weight.detach()[[1, 1, 2]]
    expected = torch.einsum("nc,nchw->nhw", weights, features).relu()
    expected = F.interpolate(expected[:, None], (96, 96), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-3)
