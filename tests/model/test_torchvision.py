"""Weights and preprocessing of torchvision, against torchvision itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import models

from classifier.errors import ConfigError
from classifier.model.encoders import build_network
from classifier.model.options import NetworkOptions
from tests.model.test_families import thin_vision_transformers  # noqa: F401


def cached(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, tag: str, **arguments: Any
) -> Any:
    """A model with random weights, which lie where torchvision keeps downloads."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    torch.manual_seed(1)
    model = models.get_model(name, weights=None, **arguments)
    weights = models.get_model_weights(name)[tag]
    file = folder / "hub/checkpoints" / Path(weights.url).name
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    return model.eval()


@pytest.mark.parametrize("num_classes", [3, 1000])
def test_weights_are_loaded_and_the_head_is_kept_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_classes: int
) -> None:
    model = cached(tmp_path, monkeypatch, "mobilenet_v3_small", "IMAGENET1K_V1")
    name = "torchvision/mobilenet_v3_small"
    built = build_network(name, num_classes, NetworkOptions()).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(built.model.features(images), model.features(images), atol=1e-5)
        assert built(images).shape == (1, num_classes)
        if num_classes == 1000:
            assert torch.allclose(built(images), model(images), atol=1e-5)


def test_inception_sees_what_torchvision_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached(tmp_path, monkeypatch, "inception_v3", "IMAGENET1K_V1", init_weights=False)
    model.transform_input = True  # as its pretrained weights ask for
    built = build_network("torchvision/inception_v3", 1000, NetworkOptions()).train()
    assert isinstance(built(torch.randn(2, 3, 299, 299)), torch.Tensor)  # no auxiliary logits
    pixels = torch.rand(1, 3, 75, 75)
    preset = models.Inception_V3_Weights.DEFAULT.transforms()

    def normalised(mean: Any, std: Any) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    own = normalised(built.preprocessing.mean, built.preprocessing.std)
    built.load_state_dict(
        {f"model.{k}": v for k, v in model.state_dict().items() if "AuxLogits" not in k}
    )
    with torch.no_grad():
        expected = model(normalised(preset.mean, preset.std))
        assert torch.allclose(built.eval()(own), expected, atol=1e-4)


def test_position_embeddings_of_a_vision_transformer_are_interpolated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    thin_vision_transformers: None,  # noqa: F811
) -> None:
    model = cached(tmp_path, monkeypatch, "vit_b_32", "IMAGENET1K_V1")
    built = build_network("torchvision/vit_b_32", 3, NetworkOptions(image_size=96))
    positions = model.encoder.pos_embedding
    grid = positions[:, 1:].reshape(1, 7, 7, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (3, 3), mode="bicubic", align_corners=True)
    expected = torch.cat([positions[:, :1], grid.flatten(2).mT], 1)
    assert torch.allclose(built.model.encoder.pos_embedding, expected, atol=1e-6)
    assert torch.equal(built.model.conv_proj.weight, model.conv_proj.weight)


@pytest.mark.parametrize("name", ["resnet50", "resnet50.IMAGENET1K_V1", "efficientnet_b0"])
def test_preprocessing_is_that_of_the_weights_also_without_them(name: str) -> None:
    with torch.device("meta"):
        preprocessing = build_network(
            f"torchvision/{name}", 3, NetworkOptions(pretrained=False)
        ).preprocessing
    architecture, _, tag = name.partition(".")
    preset = models.get_model_weights(architecture)[tag or "DEFAULT"].transforms()
    shown = preset(Image.new("RGB", (640, 480)))
    assert preprocessing.size == tuple(shown.shape[1:])
    assert preprocessing.resize[0] == preset.resize_size[0]
    assert preprocessing.mean == tuple(preset.mean)
    assert preprocessing.interpolation == preset.interpolation.value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "model_name: torchvision has no such classification model, got "),
        ("resnet18.V7", "model_name: torchvision has no weights 'V7' for resnet18, got "),
        ("fasterrcnn_resnet50_fpn", "model_name: torchvision has no such classification model"),
    ],
)
def test_unknown_name_is_told_in_words(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_network(f"torchvision/{name}", 3, NetworkOptions())
    assert str(caught.value).startswith(f"model.init_args.{message}")


def test_weights_that_cannot_be_had_are_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ConfigError, match=r"pretrained: the weights .* could not be loaded"):
        build_network("torchvision/squeezenet1_1", 3, NetworkOptions())
