"""A frozen prefix and the rest are the whole network, or there is no prefix."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classifier.model.encoders import build_network
from classifier.model.freezing import freeze_groups, hold_frozen_in_eval, num_frozen_groups
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.model.prefix import FrozenPrefix
from tests.model.test_encoders import SMALL, write_transformers

TIMM = {
    "test_resnet": 64, "test_vit": 160, "test_efficientnet": 64, "test_convnext": 64,
    "test_byobnet": 64, "test_maxvit": 160,
}  # fmt: skip


def built(name: str, tmp_path: Path, **options: Any) -> tuple[Network, int]:
    torch.manual_seed(3)
    if name in SMALL:
        folder = write_transformers(tmp_path / name, name)
        return build_network(str(folder), 3, NetworkOptions(pretrained=False, **options)), 32
    network = build_network(f"timm/{name}", 3, NetworkOptions(pretrained=False, **options))
    return network, TIMM[name]


def freeze(network: Network, fraction: float) -> None:
    freeze_groups(network, num_frozen_groups(fraction, len(network.layer_groups())))
    network.train()
    hold_frozen_in_eval(network)


def gradients(network: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    torch.autograd.backward(logits.square().sum())
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("name", [*TIMM, *SMALL])
def test_prefix_and_rest_are_the_network(name: str, fraction: float, tmp_path: Path) -> None:
    network, size = built(name, tmp_path)
    freeze(network, fraction)
    images = torch.randn(7, 3, size, size)
    modes = {name: module.training for name, module in network.named_modules()}
    prefix = FrozenPrefix.find(network, images[:2])
    assert prefix is not None
    assert modes == {name: module.training for name, module in network.named_modules()}
    twin = copy.deepcopy(network)  # one step moves the statistics of what is trained
    features = prefix.encode(images)
    assert not features.requires_grad and len(features) == 7
    torch.manual_seed(5)  # of dropout in what is trained
    found = prefix.finish(features)
    torch.manual_seed(5)
    expected = twin(images)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    mine, theirs = gradients(network, found), gradients(twin, expected)
    assert mine.keys() == theirs.keys() and mine
    for key, value in mine.items():
        assert torch.allclose(value, theirs[key], rtol=1e-3, atol=1e-4), key
    for key, value in network.state_dict().items():
        assert torch.allclose(value.float(), twin.state_dict()[key].float(), atol=1e-5), key


def test_fully_frozen_encoder_gives_what_the_head_takes(tmp_path: Path) -> None:
    network, size = built("test_resnet", tmp_path)
    freeze(network, 1.0)
    prefix = FrozenPrefix.find(network, torch.randn(2, 3, size, size))
    assert prefix is not None
    head: Any = network.model.get_classifier()
    assert prefix.encode(torch.randn(4, 3, size, size)).shape == (4, head.in_features)


def test_half_frozen_encoder_gives_what_its_last_frozen_layer_gives(tmp_path: Path) -> None:
    network, size = built("test_vit", tmp_path)
    groups = network.layer_groups()
    freeze(network, 0.5)
    prefix = FrozenPrefix.find(network, torch.randn(2, 3, size, size))
    assert prefix is not None
    frozen = [g.name for g in groups if not network.get_parameter(g.parameters[0]).requires_grad]
    assert prefix.cut == f"model.{frozen[-1]}"


def test_nothing_frozen_has_no_prefix(tmp_path: Path) -> None:
    network, size = built("test_resnet", tmp_path)
    assert FrozenPrefix.find(network, torch.randn(2, 3, size, size)) is None


def test_dropout_before_the_head_is_drawn_anew_each_time() -> None:
    network = WithDropout()
    prefix = FrozenPrefix.find(network, torch.randn(2, 3, 8, 8))
    assert prefix is not None and prefix.cut == "pool"
    features = prefix.encode(torch.randn(4, 3, 8, 8))
    torch.manual_seed(1)
    first, second = prefix.finish(features), prefix.finish(features)
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(prefix.finish(features), prefix.finish(features))


class WithDropout(nn.Module):
    """Dropout without a module of its own, as timm's ResNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.conv(images).relu())
        logits: Tensor = self.head(nn.functional.dropout(pooled, 0.5, self.training))
        return logits


class LooksTwice(nn.Module):
    """A network that uses its images once more behind the frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.second(self.first(images) + images)
        logits: Tensor = self.head(mixed.mean((2, 3)))
        return logits


class TwoBranches(nn.Module):
    """A frozen branch beside a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Conv2d(3, 4, 3)
        self.frozen = nn.Conv2d(3, 4, 3).requires_grad_(False)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        both = self.trained(images) * self.frozen(images)
        logits: Tensor = self.head(both.mean((2, 3)))
        return logits


@pytest.mark.parametrize("cls", [LooksTwice, TwoBranches])
def test_network_that_is_no_sequence_is_not_cut(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert FrozenPrefix.find(cls(), torch.randn(2, 3, 8, 8)) is None


def test_digest_follows_what_is_frozen_and_nothing_else(tmp_path: Path) -> None:
    network, size = built("test_resnet", tmp_path)
    freeze(network, 0.5)
    images = torch.randn(2, 3, size, size)

    def digest() -> str:
        prefix = FrozenPrefix.find(network, images)
        assert prefix is not None
        return prefix.digest()

    before = digest()
    with torch.no_grad():
        next(p for p in network.parameters() if p.requires_grad).add_(1.0)
    assert digest() == before
    buffers = [b for m in network.modules() if not m.training for b in m.buffers(recurse=False)]
    buffers[0].add_(0.5)
    other = digest()
    assert other != before
    with torch.no_grad():
        next(p for p in network.parameters() if not p.requires_grad)[0].add_(1e-6)
    assert digest() not in (before, other)
    freeze(network, 1.0)
    assert digest() not in (before, other)


def test_digest_follows_the_code_of_ones_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = WithDropout()
    prefix = FrozenPrefix.find(network, torch.randn(2, 3, 8, 8))
    assert prefix is not None
    before = prefix.digest()
    assert prefix.digest() == before
    changed = tmp_path / "changed.py"
    changed.write_text("# another forward")
    monkeypatch.setattr("classifier.model.prefix_digest.inspect.getfile", lambda cls: str(changed))
    assert prefix.digest() != before


def test_looking_for_a_prefix_draws_no_random_numbers() -> None:
    network = WithDropout()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    assert FrozenPrefix.find(network, torch.ones(2, 3, 8, 8)) is not None
    assert torch.equal(torch.rand(3), expected)


def test_digest_follows_the_code_that_ones_own_module_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "a_helper.py"
    helper.write_text("FACTOR = 1.0")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("a_helper")
    prefix = FrozenPrefix.find(WithDropout(), torch.randn(2, 3, 8, 8))
    assert prefix is not None
    before = prefix.digest()
    helper.write_text("FACTOR = 2.0")
    assert prefix.digest() != before


def test_prefix_tells_when_a_layer_is_unfrozen() -> None:
    network = WithDropout()
    prefix = FrozenPrefix.find(network, torch.randn(2, 3, 8, 8))
    assert prefix is not None and prefix.is_frozen()
    network.conv.requires_grad_(True)
    assert not prefix.is_frozen()
