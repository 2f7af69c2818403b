from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from classifier.errors import ConfigError
from classifier.model.optimizers import build_optimizer
from classifier.model.schedules import build_scheduler, check_scheduler


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 3),
    )


def rates(config: dict[str, Any], steps: int = 40, epochs: int = 4, lr: float = 0.1) -> list[float]:
    optimizer = build_optimizer(network(), {"name": "SGD", "lr": lr})
    built = build_scheduler(optimizer, config, num_steps=steps, num_epochs=epochs)
    seen = []
    for step in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if built["interval"] == "step" or (step + 1) % (steps // epochs) == 0:
            built["scheduler"].step()
    return seen


@pytest.mark.parametrize("name", ["AdamW", "SGD", "adamw", "lamb", "lion", "torch.optim.RMSprop"])
def test_optimizer_by_name_trains(name: str) -> None:
    model = network()
    optimizer = build_optimizer(model, {"name": name, "lr": 1e-3})
    weight = model.get_parameter("0.weight")
    before = weight.clone()
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    "config", [{"name": "AdamW", "lr": 0.01}, {"name": "SGD", "lr": 0.1, "momentum": 0.9}]
)
def test_same_steps_as_torch_without_weight_decay(config: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    own = build_optimizer(ours, {**config, "weight_decay": 0.0})
    reference = getattr(torch.optim, config["name"])(
        theirs.parameters(), weight_decay=0.0, **{k: v for k, v in config.items() if k != "name"}
    )
    for _ in range(5):
        inputs = torch.randn(6, 4)
        for model, optimizer in ((ours, own), (theirs, reference)):
            optimizer.zero_grad()
            model(inputs).pow(2).sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("config", [{}, {"weight_decay": 0.05}])
@pytest.mark.parametrize(
    "name", ["sgd", "nesterov", "momentum", "adamw", "lamb", "rmsprop", "muon"]
)
def test_same_steps_as_timms_factory_with_a_name_of_timm(
    name: str, config: dict[str, float]
) -> None:
    ours, theirs = convolutional(), convolutional()
    own = build_optimizer(ours, {"name": name, "lr": 3e-3, **config})
    reference = create_optimizer_v2(theirs, name, lr=3e-3, **config)
    for step in range(5):
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, own), (theirs, reference)):
            optimizer.zero_grad()
            model(images).pow(2).sum().backward()
            optimizer.step()
    start = convolutional().state_dict()
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert not torch.equal(a, start[key])


def test_momentum_of_a_timm_name_is_the_one_given() -> None:
    groups = build_optimizer(network(), {"name": "sgd", "lr": 0.1, "momentum": 0.5}).param_groups
    assert [(group["momentum"], group["nesterov"]) for group in groups] == [(0.5, True)]


@pytest.mark.parametrize("config", [{"weight_decay": 0.1}, {}])
def test_biases_and_gains_are_not_decayed(config: dict[str, float]) -> None:
    optimizer = build_optimizer(network(), {"name": "AdamW", "lr": 0.1, **config})
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] > 0 and all(p.ndim > 1 for p in decayed["params"])
    assert others["weight_decay"] == 0 and all(p.ndim <= 1 for p in others["params"])


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, {"name": "SGD", "lr": 0.1})
    assert len(optimizer.param_groups[0]["params"]) == 4


def test_cosine_follows_the_formula() -> None:
    seen = rates({"name": "cosine", "min_lr": 0.01})
    for step, rate in enumerate(seen):
        assert rate == pytest.approx(0.01 + 0.09 * (1 + math.cos(math.pi * step / 40)) / 2)


@pytest.mark.parametrize("key", [{"warmup_epochs": 1}, {"warmup_ratio": 0.25}])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "step"])
def test_warmup_rises_to_the_full_rate(name: str, key: dict[str, float]) -> None:
    seen = rates({"name": name, **key})
    assert seen[0] == pytest.approx(0.1 * 1e-3)
    assert all(a < b for a, b in pairwise(seen[:11]))
    assert seen[10] == pytest.approx(0.1)


def test_linear_falls_to_min_lr() -> None:
    seen = rates({"name": "linear", "min_lr": 0.02})
    assert seen[20] == pytest.approx(0.06)
    assert seen[-1] == pytest.approx(0.02 + 0.08 / 40)


def test_step_counts_epochs() -> None:
    seen = rates({"name": "step", "step_size": 2, "gamma": 0.5})
    assert seen[19] == pytest.approx(0.1)
    assert seen[20] == pytest.approx(0.05)


def test_one_cycle_peaks_at_lr() -> None:
    assert max(rates({"name": "one_cycle", "pct_start": 0.25})) == pytest.approx(0.1, rel=1e-3)


def test_scheduler_of_torch_by_name_counts_epochs() -> None:
    seen = rates({"name": "ExponentialLR", "gamma": 0.5})
    assert seen[9:11] == pytest.approx([0.1, 0.05])


def test_plateau_watches_the_loss_by_default() -> None:
    optimizer = build_optimizer(network(), {"name": "SGD", "lr": 0.1})
    built = build_scheduler(optimizer, {"name": "plateau"}, num_steps=10, num_epochs=2)
    assert built["monitor"] == "validation_loss"
    assert built["scheduler"].mode == "min"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cosine", "warmup_epochs": 1, "warmup_ratio": 0.1}, "stands beside warmup_epochs"),
        ({"name": "cosine", "warmup_epochs": -1}, "must be a number of at least 0"),
        ({"name": "ExponentialLR", "gama": 0.5}, "takes no 'gama'"),
        ({"name": "torch.optim.AdamW"}, "unknown schedule"),
        ({"name": "ReduceLROnPlateau", "patience": 3}, "^model.init_args.scheduler_config.name: follows a metric, "
         "which only plateau is told, got 'ReduceLROnPlateau'. Write name: plateau, with the same arguments.$"),
        ({"name": "StepLR", "step_size": 1, "warmup_epochs": 1},
         "^model.init_args.scheduler_config.interval: a warm-up before StepLR needs steps, got 'epoch'. "
         "Write interval: step, and count its arguments in steps.$"),
    ],
)  # fmt: skip
def test_wrong_schedule_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_scheduler(config)


def test_warmup_as_long_as_the_training_is_cut_to_half(caplog: pytest.LogCaptureFixture) -> None:
    seen = rates({"name": "cosine", "warmup_epochs": 4})
    assert seen[20] == pytest.approx(0.1)
    assert "the warm-up of 40 steps is cut to half of the training's 40" in caplog.text
