"""Arguments, rates, heads, sizes and memory formats, with every library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.preprocessing import Preprocessing
from tests.model.test_families import SMALL_VIT, write_config

RESNET = "timm/test_resnet"


def network(name: str, num_classes: int = 3, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(name, num_classes, NetworkOptions(**{"pretrained": False, **options}))


def save_model(folder: Path, kind: str, auto: Any = AutoModelForImageClassification) -> Any:
    torch.manual_seed(1)
    arguments = {**SMALL_VIT, "use_relative_position_bias": True} if kind == "beit" else SMALL_VIT
    config = AutoConfig.for_model(kind, **arguments)
    config.architectures = []
    model = auto.from_config(config)
    for name, parameter in model.named_parameters():
        if "position" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model.eval()


# Heads


@pytest.mark.parametrize("name", [RESNET, "timm/mobilenetv3_small_050", "torchvision/squeezenet1_1",
                                  "torchvision/mobilenet_v3_small"])  # fmt: skip
def test_head_of_several_layers_takes_the_place_of_the_last_one(name: str) -> None:
    plain = network(name)
    built = network(name, head={"hidden": [16, 8], "dropout": 0.4, "activation": "relu"})
    groups = [group.parameters for group in plain.layer_groups()]
    assert [group.parameters for group in built.layer_groups()] == groups  # all of it is the head
    added = [
        module for module in built.modules() if isinstance(module, nn.Dropout) and module.p == 0.4
    ]
    assert len(added) == 3
    assert built(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    again = rebuild_network(json.loads(json.dumps(built.spec)), 3)
    again.load_state_dict(built.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(again.eval()(images), built.eval()(images), atol=1e-6)


def test_head_of_dropout_alone_keeps_one_layer() -> None:
    head = network(RESNET, head={"dropout": 0.3}).model.fc
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear]
    head = network(RESNET, head={"hidden": 8}).model.fc
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Linear]


def test_both_heads_of_a_distilled_deit_are_replaced() -> None:
    arguments = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    built = network("timm/deit_tiny_distilled_patch16_224", image_size=32, model_args=arguments,
                    head={"hidden": 4})  # fmt: skip
    assert built.model.head[0].out_features == built.model.head_dist[0].out_features == 4


def test_frozen_encoder_leaves_every_layer_of_the_head_trainable() -> None:
    model = ImageClassifier(RESNET, pretrained=False, num_classes=3, freeze_encoder=True,
                            head={"hidden": 8})  # fmt: skip
    model.build()
    assert model.network is not None
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert trained == {
        f"model.fc.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": {"hiden": 8}}, "head.hiden: unknown key. A head has hidden, dropout, activation. Did you mean 'hidden'?"),
        ({"head": {"hidden": 0}}, "head.hidden: must be a size of at least 1, or a list of sizes, got 0."),
        ({"head": {"hidden": [8, "x"]}}, "head.hidden: must be a size"),
        ({"head": {"dropout": 1.0}}, r"head.dropout: must be in [0, 1), got 1.0."),
        ({"head": {"activation": "tanh"}}, "head.activation: must be gelu or relu, got 'tanh'."),
        ({"drop_rate": 1.5}, "drop_rate: must be in [0, 1), got 1.5."),
        ({"drop_path_rate": -0.1}, "drop_path_rate: must be in [0, 1), got -0.1."),
        ({"image_size": 0}, "image_size: must be one side or [height, width] in pixels, got 0."),
        ({"image_size": [1, 2, 3]}, "image_size: must be one side or [height, width]"),
        ({"model_args": {"img_size": 64}}, "model_args.img_size: has a key of its own. Write model.init_args.image_size."),
        ({"model_args": {"num_classes": 4}}, "model_args.num_classes: has a key of its own."),
    ],
)  # fmt: skip
def test_value_out_of_range_is_refused_before_anything_is_built(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageClassifier(RESNET, **options)
    assert str(caught.value).startswith(f"model.init_args.{message}")


# Arguments and rates


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (RESNET, {"model_args": {"foo": 1}}, "model_args.foo: test_resnet takes no 'foo'."),
        (RESNET, {"model_args": {"cache_dir": "x"}}, "model_args.cache_dir: has a key of its own."),
        ("timm/vgg11", {"drop_path_rate": 0.1}, "drop_path_rate: vgg11 has no such rate to set. Write null."),
        ("torchvision/vgg11", {"model_args": {"drpout": 0.1}}, "model_args.drpout: vgg11 takes no 'drpout'."),
        ("torchvision/vgg11", {"drop_path_rate": 0.1}, "drop_path_rate: vgg11 has no such rate"),
        ("torchvision/resnet18", {"drop_rate": 0.1}, "drop_rate: resnet18 has no such rate"),
        ("torchvision/swin_t", {"drop_path_rate": 0.1}, "model_args: swin_t refuses its arguments"),
        ("torchvision/inception_v3", {"model_args": {"aux_logits": True}}, "model_args.aux_logits: has a key"),
        ("transformers", {"model_args": {"hiden_size": 8}}, "model_args.hiden_size: vit takes no 'hiden_size'."),
        ("transformers", {"model_args": {"hidden_size": "x"}}, "model_args: vit refuses its arguments"),
        ("transformers", {"drop_path_rate": 0.1}, "drop_path_rate: vit has no such rate"),
    ],
)  # fmt: skip
def test_argument_that_the_architecture_does_not_take_is_refused_by_its_key(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    if name == "transformers":
        name = write_config(tmp_path, "vit")
    with pytest.raises(ConfigError) as caught:
        network(name, **options)
    assert str(caught.value).startswith(f"model.init_args.{message}")


def test_rates_reach_each_library_under_its_own_name(tmp_path: Path) -> None:
    rates: dict[str, Any] = {"drop_rate": 0.3, "drop_path_rate": 0.2}
    resnet = network(RESNET, **rates).model
    assert resnet.drop_rate == 0.3
    assert max(getattr(m, "drop_prob", 0) for m in resnet.modules()) == pytest.approx(0.2)
    beit = network(write_config(tmp_path / "beit", "beit"), **rates).model.config
    assert (beit.hidden_dropout_prob, beit.drop_path_rate) == (0.3, 0.2)
    small = network("torchvision/efficientnet_b0", drop_rate=0.3)
    assert small.model.classifier[0].p == 0.3
    again = rebuild_network(json.loads(json.dumps(small.spec)), 3)
    assert again.model.classifier[0].p == 0.3


# Sizes


def test_preprocessing_scales_with_the_size_and_keeps_the_crop() -> None:
    scaled = Preprocessing(size=(224, 224), resize=(256, 256)).at_size((112, 448))
    assert (scaled.size, scaled.resize) == ((112, 448), (128, 512))


@pytest.mark.parametrize(("size", "expected"), [(96, (96, 96)), ([64, 96], (64, 96))])
def test_convolutional_network_takes_another_size_by_preprocessing_alone(
    size: Any, expected: tuple[int, int]
) -> None:
    built = network(RESNET, image_size=size)
    assert built.preprocessing.size == expected
    assert rebuild_network(json.loads(json.dumps(built.spec)), 3).preprocessing.size == expected


def bicubic(positions: Tensor, special: int, size: tuple[int, int], **options: Any) -> Tensor:
    """Position embeddings (1, tokens, features) on another grid, by the book."""
    side = int((positions.shape[1] - special) ** 0.5)
    grid = positions[:, special:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=size, mode="bicubic", **options)
    return torch.cat([positions[:, :special], grid.flatten(2).mT], 1)


def test_timm_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=4)
    nn.init.normal_(model.pos_embed)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    built = network(str(tmp_path), 4, pretrained=True, image_size=[64, 96])
    special = model.pos_embed.shape[1] - 100
    expected = bicubic(model.pos_embed, special, (4, 6), antialias=True)
    assert torch.allclose(built.model.pos_embed, expected, atol=1e-5)
    assert torch.equal(built.model.head.weight, model.head.weight)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "beit"])
def test_transformers_position_embeddings_are_those_of_their_own_interpolation(
    tmp_path: Path, kind: str
) -> None:
    model = save_model(tmp_path, kind)
    built = network(str(tmp_path), 2, pretrained=True, image_size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    own = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}  # dinov2 always does
    with torch.no_grad():
        expected = model(images, **own).logits
        assert torch.allclose(built(images), expected, atol=1e-5)
    assert built.preprocessing.size == (48, 48)
    again = rebuild_network(json.loads(json.dumps(built.spec)), 2)
    again.load_state_dict(built.state_dict())


def test_transformers_position_embeddings_are_interpolated_to_a_rectangle(tmp_path: Path) -> None:
    model = save_model(tmp_path, "vit")
    built = network(str(tmp_path), 2, pretrained=True, image_size=[48, 64])
    found = built.state_dict()["model.vit.embeddings.position_embeddings"]
    expected = bicubic(model.vit.embeddings.position_embeddings, 1, (6, 8), align_corners=False)
    assert torch.allclose(found, expected, atol=1e-6)


def test_size_that_the_architecture_refuses_names_sizes_that_work() -> None:
    with pytest.raises(ConfigError) as caught:
        network("timm/vit_tiny_patch16_224", image_size=8, model_args={"depth": 1})
    assert str(caught.value).startswith(
        "model.init_args.image_size: timm/vit_tiny_patch16_224 takes no images of 8 x 8 pixels ("
    )
    assert str(caught.value).endswith("got 8. Sizes that work are 32, 64, 224.")
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"takes no images of 40 x 40 .* work are 32, 64, 96, 224"),
    ):
        network("torchvision/vit_b_32", image_size=40)


# Models of transformers without a head


@pytest.mark.parametrize(("kind", "pooled"), [("clip_vision_model", True), ("vit_mae", False)])
def test_headless_model_gets_a_head_on_its_pooled_output(
    tmp_path: Path, kind: str, pooled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = save_model(tmp_path, kind, AutoModel)
    built = network(str(tmp_path), 3, pretrained=True).eval()
    assert "has no head for classification: its outputs are pooled" in caplog.text
    images = torch.randn(2, 3, 32, 32)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        outputs = model(images)
        features = outputs.pooler_output if pooled else outputs.last_hidden_state.mean(1)
        expected = built.model.classifier(features)
        assert torch.allclose(built(images), expected, atol=1e-5)


def test_encoder_saved_without_a_head_gives_its_weights_and_says_that_the_head_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = save_model(tmp_path, "vit", AutoModel)
    built = network(str(tmp_path), 3, pretrained=True)
    assert "the classification head is new" in caplog.text
    assert "start at random" not in caplog.text
    for name, value in built.model.vit.named_parameters():
        assert torch.equal(value, model.get_parameter(name)), name


# Memory format


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (RESNET, {}, True),
        ("timm/test_convnext", {}, True),
        ("timm/mobilenetv3_small_050", {}, True),
        ("timm/test_vit", {}, False),
        ("timm/levit_128s", {}, False),
        ("timm/swin_tiny_patch4_window7_224", {"depths": [1, 1], "num_heads": [1, 1]}, False),
    ],
)
def test_memory_format_follows_the_layers(
    name: str, arguments: dict[str, Any], expected: bool
) -> None:
    assert network(name, model_args=arguments).channels_last == expected


@pytest.mark.parametrize("name", [RESNET, "timm/test_convnext", "timm/test_vit"])
def test_logits_are_equal_in_either_memory_format(name: str) -> None:
    last = network(name, channels_last=True).eval()
    contiguous = network(name, channels_last=False).eval()
    contiguous.load_state_dict(last.state_dict())
    weights = [p for p in last.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(p.is_contiguous() for p in contiguous.parameters())
    size = last.preprocessing.size
    images = torch.randn(2, 3, *size)
    assert torch.allclose(last(images), contiguous(images), atol=1e-4)
