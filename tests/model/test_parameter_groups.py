from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model.optimizers import (
    build_optimizer,
    completed,
    highest_rate,
    with_highest_rate,
)
from classifier.model.schedules import build_scheduler


def network(name: str = "test_resnet", **options: Any) -> Any:
    torch.manual_seed(0)
    model = ImageClassifier(f"timm/{name}", pretrained=False, num_classes=3, **options)
    model.build()
    return model.network


def rates(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Parameter name -> learning rate."""
    names = {id(p): n for n, p in module.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def decays(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {id(p): n for n, p in module.named_parameters()}
    return {
        names[id(p)]: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "test_resnet"])
def test_layer_decay_gives_the_rates_and_decays_of_timm(name: str) -> None:
    module = network(name)
    config = {"name": "AdamW", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": 0.65}
    own = build_optimizer(module, config)
    theirs = param_groups_layer_decay(module.model, weight_decay=0.05, layer_decay=0.65)
    names = {id(p): n for n, p in module.named_parameters()}
    expected = {names[id(p)]: g["lr_scale"] * 1e-3 for g in theirs for p in g["params"]}
    found = rates(module, own)
    assert set(found) == set(expected) == set(names.values())
    for key, rate in expected.items():
        assert found[key] == pytest.approx(rate), key
    expected_decay = {names[id(p)]: g["weight_decay"] for g in theirs for p in g["params"]}
    assert decays(module, own) == expected_decay


def test_two_rates_are_those_of_the_transfer_learning_notes() -> None:
    module = network()
    found = rates(
        module, build_optimizer(module, {"name": "SGD", "lr_backbone": 1e-5, "lr_head": 1e-3})
    )
    # The notes' rule: what has 'fc' in its name is the head.
    for name, _ in module.named_parameters():
        assert found[name] == (1e-3 if "fc" in name else 1e-5), name


@pytest.mark.parametrize(
    ("config", "encoder", "head"),
    [
        ({"lr": 0.1, "lr_head": 0.5}, 0.1, 0.5),
        ({"lr": 0.1, "lr_backbone": 0.01}, 0.01, 0.1),
        ({"lr_head": 0.5}, 1e-3, 0.5),  # SGD's own default
        ({"lr_backbone": 0.0, "lr_head": 0.5}, 0.0, 0.5),
    ],
)
def test_rate_that_is_not_given_is_lr(
    config: dict[str, float], encoder: float, head: float
) -> None:
    module = network()
    found = rates(module, build_optimizer(module, {"name": "SGD", **config}))
    assert found[module.layer_groups()[0].parameters[0]] == encoder
    assert found["model.fc.weight"] == head


def test_layer_decay_scales_the_encoder_rate_and_leaves_the_head_alone() -> None:
    module = network()
    config = {"name": "SGD", "lr_backbone": 0.1, "lr_head": 1.0, "layer_decay": 0.5}
    found = rates(module, build_optimizer(module, config))
    assert found["model.fc.weight"] == 1.0
    for k, group in enumerate(reversed(module.layer_groups()), start=1):
        assert {found[name] for name in group.parameters} == {0.1 * 0.5**k}


def test_groups_are_those_of_before_without_rates_of_their_own() -> None:
    module = network()
    first, second = build_optimizer(module, {"name": "AdamW", "lr": 1e-3}).param_groups
    assert first["params"] == [p for p in module.parameters() if p.ndim > 1]
    assert second["params"] == [p for p in module.parameters() if p.ndim <= 1]
    assert "name" not in first and second["weight_decay"] == 0.0


def test_norms_and_biases_are_decayed_when_asked() -> None:
    module = network()
    config = {"name": "AdamW", "weight_decay": 0.1, "decay_norms_and_biases": True}
    assert set(decays(module, build_optimizer(module, config)).values()) == {0.1}
    layered = build_optimizer(module, {**config, "layer_decay": 0.9})
    assert set(decays(module, layered).values()) == {0.1}
    names = [group["name"] for group in layered.param_groups]
    assert len(names) == len(set(names)) == len(module.layer_groups()) + 1


def test_frozen_parameters_are_left_out_of_every_group() -> None:
    module = network(freeze_encoder=0.5)
    optimizer = build_optimizer(module, {"name": "SGD", "lr": 0.1, "layer_decay": 0.5})
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert set(rates(module, optimizer)) == trained
    whole = build_optimizer(module, {"name": "SGD", "lr": 0.1}, frozen_too=True)
    assert set(rates(module, whole)) == {n for n, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_decay": 0.0}, r"layer_decay: must be a number in \(0, 1\], got 0.0"),
        ({"layer_decay": 1.5}, "layer_decay: must be a number in"),
        ({"layer_decay": True}, "layer_decay: must be a number in"),
        ({"lr_head": "fast"}, "lr_head: must be a number, got 'fast'"),
        ({"lr_backbone": -1.0}, "lr_backbone: must be at least 0"),
        ({"decay_norms_and_biases": 1}, "decay_norms_and_biases: must be true or false"),
        ({"layer_deca": 0.5}, "Did you mean 'layer_decay'"),
        ({"name": "adafactor", "lr_head": 0.1}, "lr: is missing, and lr_backbone is too"),
    ],
)  # fmt: skip
def test_wrong_rate_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageClassifier("timm/test_resnet", optimizer_config={"name": "SGD", **config})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"name": "AdamW", "lr": 3e-4, "weight_decay": 0.05}),
        ({"lr": 1e-3}, {"name": "AdamW", "lr": 1e-3, "weight_decay": 0.05}),
        ({"name": "SGD", "lr": 1e-3}, {"name": "SGD", "lr": 1e-3}),
        ({"name": "SGD", "lr_head": None}, {"name": "SGD"}),
    ],
)
def test_optimizer_without_a_name_is_the_default(given: Any, expected: dict[str, Any]) -> None:
    assert completed(given) == expected
    assert ImageClassifier("timm/test_resnet", optimizer_config=given).optimizer_config == expected


def per_group(
    config: dict[str, Any], schedule: dict[str, Any], steps: int = 20
) -> list[list[float]]:
    optimizer = build_optimizer(network(), config)
    built = build_scheduler(optimizer, schedule, num_steps=steps, num_epochs=4)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if built["interval"] == "step":
            built["scheduler"].step()
    return seen


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "cosine", "min_lr": 0.01, "warmup_epochs": 1},
        {"name": "linear", "min_lr": 0.02},
        {"name": "step", "step_size": 1},
        {"name": "one_cycle"},
        {"name": "CosineAnnealingLR", "T_max": 20, "interval": "step"},
    ],
)
def test_groups_keep_their_proportion_over_all_steps(schedule: dict[str, Any]) -> None:
    config = {"name": "SGD", "lr": 0.1, "layer_decay": 0.5}
    seen = per_group(config, schedule)
    start = build_optimizer(network(), config).param_groups
    shares = [group["lr"] / 0.1 for group in start]
    for step, row in enumerate(seen):
        assert row == pytest.approx([share * row[-1] for share in shares]), step


def test_cosine_with_layer_decay_follows_timms_schedule() -> None:
    module = network()
    config = {"name": "SGD", "lr": 0.1, "layer_decay": 0.5}
    seen = per_group(config, {"name": "cosine", "min_lr": 0.01})
    theirs = create_optimizer_v2(module.model, opt="sgd", lr=0.1, layer_decay=0.5)
    cosine = CosineLRScheduler(theirs, t_initial=20, lr_min=0.01, t_in_epochs=False)
    for step, row in enumerate(seen):
        cosine.step_update(step)
        # timm's schedulers write the scaled rate into lr.
        written = sorted({round(g["lr"], 12) for g in theirs.param_groups})
        assert sorted({round(rate, 12) for rate in row}) == pytest.approx(written), step


def test_floor_is_that_of_the_highest_rate() -> None:
    config = {"name": "SGD", "lr_backbone": 0.001, "lr_head": 0.1}
    seen = per_group(config, {"name": "cosine", "min_lr": 0.01})
    for step, row in enumerate(seen):
        head = 0.01 + 0.09 * (1 + math.cos(math.pi * step / 20)) / 2
        assert max(row) == pytest.approx(head)
        assert min(row) == pytest.approx(head / 100)


def test_plateau_floors_are_in_proportion() -> None:
    optimizer = build_optimizer(network(), {"name": "SGD", "lr_backbone": 0.01, "lr_head": 0.1})
    built = build_scheduler(
        optimizer, {"name": "plateau", "min_lr": 0.02, "patience": 0}, num_steps=9, num_epochs=9
    )
    for _ in range(6):
        built["scheduler"].step(1.0)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.002, 0.02])


@pytest.mark.parametrize(
    ("config", "highest", "doubled"),
    [
        ({"lr": 0.1}, 0.1, {"lr": 0.2}),
        ({"lr": 0.1, "lr_head": 0.5}, 0.5, {"lr": 0.2, "lr_head": 1.0}),
        (
            {"lr": 9.0, "lr_head": 0.5, "lr_backbone": 0.1},
            0.5,
            {"lr_head": 1.0, "lr_backbone": 0.2},
        ),
        ({}, None, None),
    ],
)
def test_highest_rate_is_set_in_proportion(
    config: dict[str, float], highest: float | None, doubled: dict[str, float] | None
) -> None:
    assert highest_rate(config) == highest
    if highest is not None:
        assert with_highest_rate(config, 2 * highest) == pytest.approx(doubled)
    else:
        assert with_highest_rate(config, 0.3) == {"lr": 0.3}
