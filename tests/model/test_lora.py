"""Adapters of low rank: their arithmetic, what is trained, what is refused."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model import lora_config
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.lora import merge_adapters
from classifier.model.network import Network
from classifier.model.optimizers import build_optimizer
from classifier.model.options import NetworkOptions
from tests.model.test_families import VIT, thin_vision_transformers, write_config  # noqa: F401

VIT_NAME = "timm/vit_tiny_patch16_224"
ARGUMENTS: dict[str, Any] = {"pretrained": False, "model_args": VIT, "image_size": 32}


def network(lora: dict[str, Any] | None, name: str = VIT_NAME, **options: Any) -> Network:
    torch.manual_seed(0)
    given = ARGUMENTS if name == VIT_NAME else {"pretrained": False}
    return build_network(name, 3, NetworkOptions(**{**given, "lora": lora, **options}))


def classifier(lora: dict[str, Any], name: str = VIT_NAME, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    given = ARGUMENTS if name == VIT_NAME else {"pretrained": False}
    model = ImageClassifier(name, num_classes=3, lora=lora, **{**given, **options})
    model.build()
    return model


def wake(built: nn.Module) -> None:
    """Normalisations and branches that begin with zeros or nearly so take part."""
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)


def shake(built: nn.Module, seed: int = 5) -> None:
    """Adapters that do something, as after a training."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.1)


class Reference(nn.Module):
    """W x + b + alpha / r * B A x, as in the paper."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.a, self.b = nn.Parameter(a.detach().clone()), nn.Parameter(b.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        plain: Tensor = self.layer(inputs)
        return plain + self.scale * (inputs @ self.a.T @ self.b.T)


def test_forward_and_training_steps_are_those_of_the_paper() -> None:
    config = {"r": 4, "lora_alpha": 12, "target_modules": ["qkv", "fc1"]}
    model = classifier(config, optimizer_config={"name": "SGD", "lr": 0.1})
    built = model.network
    assert built is not None
    shake(built)
    reference = network(None)
    plain_weights = {n.replace("base_layer.", ""): v for n, v in built.state_dict().items()}
    reference.load_state_dict({n: plain_weights[n] for n in reference.state_dict()})
    reference.requires_grad_(False)
    pairs = []
    for block in (0, 1):
        for name in (f"blocks.{block}.attn.qkv", f"blocks.{block}.mlp.fc1"):
            layer: Any = built.model.get_submodule(name)
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            assert a.shape[0] == b.shape[1] == 4
            plain: Any = reference.model.get_submodule(name)
            reference.model.set_submodule(name, Reference(plain, a, b, scale=3.0))
            pairs.append((layer, reference.model.get_submodule(name)))
    reference.model.head.requires_grad_(True)
    trained = [p for p in reference.parameters() if p.requires_grad]
    steps = [(built, build_optimizer(built, model.optimizer_config)),
             (reference, torch.optim.SGD(trained, lr=0.1))]  # fmt: skip
    for step in range(3):
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        logits = []
        for each, optimizer in steps:
            logits.append(each.train()(images))
            optimizer.zero_grad()
            loss: Any = F.cross_entropy(logits[-1], torch.tensor([0, 1, 2, 0]))
            loss.backward()
            optimizer.step()
        assert torch.allclose(logits[0], logits[1], atol=1e-5)
    for layer, expected in pairs:
        assert torch.allclose(layer.lora_A["default"].weight, expected.a, atol=1e-5)
        assert torch.allclose(layer.lora_B["default"].weight, expected.b, atol=1e-5)


def test_adapters_change_nothing_before_the_first_step() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network({"r": 4}).eval()(images), network(None).eval()(images))


def test_only_adapters_and_head_are_trained_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        model = classifier({"r": 8})
    assert model.network is not None
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    sides = {f"model.blocks.{block}.attn.{layer}.lora_{side}.default.weight"
             for block in (0, 1) for layer in ("qkv", "proj") for side in "AB"}  # fmt: skip
    assert trained == sides | {"model.head.weight", "model.head.bias"}
    size = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.network.parameters())
    told = f"LoRA r 8 on 4 layers; trainable {size / 1000:.1f} k of {whole / 1000:.1f} k"
    assert told in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        (VIT_NAME, {}, 4),
        ("timm/beit_base_patch16_224", {"model_args": VIT, "image_size": 32}, 2),  # proj alone
        ("timm/swinv2_tiny_window8_256", {"model_args": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}, "image_size": 64}, 2),
        ("vit", {}, 8),
        ("swin", {}, None),
        ("dinov2", {}, None),
    ],
)  # fmt: skip
def test_attention_is_adapted_by_default_in_every_family(
    name: str, options: dict[str, Any], layers: int | None, tmp_path: Path
) -> None:
    if "/" not in name:
        name = write_config(tmp_path, name)
    plain = network(None, name, **options)
    built = network({"r": 2}, name, **options)
    assert built.adapters is not None
    assert layers is None or len(built.adapters.layers) == layers
    assert [group.name for group in built.layer_groups()] == [g.name for g in plain.layer_groups()]
    named = [name for group in built.layer_groups() for name in group.parameters]
    head = {name for name, _ in plain.named_parameters()}
    head -= {name for group in plain.layer_groups() for name in group.parameters}
    assert sorted([*named, *head]) == sorted(name for name, _ in built.named_parameters())
    images = torch.randn(2, 3, *built.preprocessing.size)
    wake(built)
    with torch.no_grad():
        before = built.eval()(images)
    shake(built)
    again = rebuild_network(json.loads(json.dumps(built.spec)), 3)
    assert again.layer_groups() == built.layer_groups()
    again.load_state_dict(built.state_dict())
    built(images).pow(2).sum().backward()
    assert all(
        p.grad is not None and p.grad.any() for n, p in built.named_parameters() if "lora_B" in n
    )
    with torch.no_grad():
        expected = built(images)
        assert not torch.allclose(before, expected, atol=1e-5)
        assert torch.allclose(again.eval()(images), expected, atol=1e-6)
        merge_adapters(again)
        assert torch.allclose(again(images), expected, atol=1e-5)
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in plain.named_parameters()}
    assert "lora" not in again.spec


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r"blocks\.1\..*fc\d"},
        {"target_modules": ["fc1"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"target_modules": ["qkv", "fc1"], "exclude_modules": ["qkv"], "use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"qkv": 3}, "alpha_pattern": {"qkv": 5}},
    ],
)  # fmt: skip
def test_further_arguments_of_peft_work_and_survive_a_checkpoint(config: dict[str, Any]) -> None:
    built = classifier({"r": 2, **config}).network
    assert built is not None
    again = rebuild_network(json.loads(json.dumps(built.spec)), 3)
    shake(built)
    again.load_state_dict(built.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(again.eval()(images), built.eval()(images), atol=1e-6)


def test_regular_expression_and_layer_numbers_choose_layers() -> None:
    both: list[dict[str, Any]] = [
        {"target_modules": r"blocks\.1\.mlp\.fc1"},
        {"target_modules": ["fc1"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    ]
    for config in both:
        adapters = network(config).adapters
        assert adapters is not None and adapters.layers == ("blocks.1.mlp.fc1",)


def test_convolutions_can_be_named() -> None:
    built = classifier({"r": 2, "target_modules": ["conv2"]}, "timm/test_resnet").network
    assert built is not None and built.adapters is not None
    assert all(layer.endswith("conv2") for layer in built.adapters.layers)
    built.train()(torch.randn(2, 3, 32, 32)).sum().backward()


def test_learning_rate_falls_with_the_layer_of_an_adapter() -> None:
    config = {"name": "AdamW", "lr": 1.0, "layer_decay": 0.5, "weight_decay": 0.05}
    built = classifier({"r": 2}, optimizer_config=config).network
    assert built is not None
    rates, expected = (
        {
            name: group["lr"]
            for group in build_optimizer(each.requires_grad_(True), config).param_groups
            for name, p in each.named_parameters()
            if any(p is other for other in group["params"])
        }
        for each in (built, network(None))
    )
    for name, rate in rates.items():
        assert (
            rate
            == expected[
                name.replace("base_layer.", "").split(".lora_")[0]
                + (".weight" if "lora_" in name else "")
            ]
        )
    assert len(set(rates.values())) == 4


def test_copy_as_of_averaged_weights_has_adapters_of_its_own() -> None:
    model = classifier({"r": 2})
    twin = copy.deepcopy(model)
    assert twin.network is not None and model.network is not None
    assert twin.network.adapters == model.network.adapters
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(images)
        shake(twin)
        assert torch.equal(model(images), before)


@pytest.mark.parametrize(
    ("lora", "options", "message"),
    [
        ({"rank": 4}, {}, "lora.rank: unknown key. It takes r, lora_alpha, "),
        ({"r": 0}, {}, "lora.r: must be a whole number of at least 1, got 0."),
        ({"lora_alpha": -1}, {}, "lora.lora_alpha: must be a number above 0, got -1."),
        ({"lora_dropout": 1.0}, {}, "lora.lora_dropout: must be in [0, 1), got 1.0."),
        ({"bias": "al"}, {}, "lora.bias: unknown value, got 'al'. Write one of none, all, lora_only. Did you mean 'all'?"),
        ({"init_lora_weights": "eva"}, {}, "lora.init_lora_weights: unknown value, got 'eva'."),
        ({"target_modules": []}, {}, "lora.target_modules: must be a list of names, or a regular expression, got []."),
        ({"layers_pattern": "blocks"}, {}, "lora: peft refuses it (When `layers_pattern` is specified"),
        ({}, {"freeze_encoder": 0.5}, "freeze_encoder: stands beside lora, which freezes the whole encoder, got 0.5."),
        ({}, {"unfreeze_schedule": {0: "head"}}, "unfreeze_schedule: stands beside lora"),
    ],
)  # fmt: skip
def test_value_that_cannot_be_is_refused_before_anything_is_built(
    lora: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageClassifier(VIT_NAME, lora=lora, **options)
    assert str(caught.value).startswith(f"model.init_args.{message}")


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        (VIT_NAME, {"target_modules": ["qvk"]}, "lora.target_modules: no such layer in the encoder, got 'qvk'. It has proj, qkv, fc1, fc2. Did you mean 'qkv'?"),
        (VIT_NAME, {"target_modules": ["qkv", "head"]}, "lora.target_modules: no such layer in the encoder, got 'head'."),
        (VIT_NAME, {"target_modules": "(qkv"}, "lora.target_modules: is no regular expression"),
        (VIT_NAME, {"target_modules": "qkv"}, "lora.target_modules: leaves no layer, got 'qkv'."),
        ("timm/test_resnet", {}, "lora: ResNet has no linear layers of an attention that could be adapted by default. Name others in target_modules: it has "),
    ],
)  # fmt: skip
def test_layer_that_is_not_there_is_refused_with_those_that_are(
    name: str, lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        network(lora, name)
    assert str(caught.value).startswith(f"model.init_args.{message}")


@pytest.mark.parametrize(
    ("name", "target", "options"),
    [
        ("timm/beit_base_patch16_224", "qkv", {"model_args": VIT, "image_size": 32}),
        ("torchvision/swin_t", "qkv", {}),
        ("torchvision/vit_b_16", "out_proj", {"image_size": 32}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("thin_vision_transformers")
def test_layer_whose_weight_is_used_without_a_call_is_refused(
    name: str, target: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="would do nothing") as caught:
        network({"target_modules": [target]}, name, **options)
    assert target not in str(caught.value).partition("It can be")[2]


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_config, "_LIBRARY", "peft_that_is_not_there")
    with pytest.raises(
        ConfigError,
        match=r"^model.init_args.lora: needs peft, which is not installed. pip install peft.$",
    ):
        ImageClassifier(VIT_NAME, lora={"r": 4})
