"""Networks by import path: the user's own, and the small one of this program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from classifier import ImageClassifier, SmallCNN, main
from classifier.checkpoints import load_checkpoint
from classifier.errors import ConfigError
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.preprocessing import Preprocessing

OWN_MODULE = """
from pathlib import Path
from torch import nn
Path("marker").touch()

class Net(nn.Module):
    preprocessing = {"size": [32, 32], "resize": [32, 32], "resize_mode": "squash"}

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.encoder(images).mean((2, 3)))

class Wide(Net):
    def forward(self, images):
        return self.encoder(images)
"""


class NoClasses(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()


class NoHead(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, num_classes, 1)


class Stated(NoHead):
    preprocessing = Preprocessing(size=(8, 8), resize=(10, 10))

    def __init__(self, num_classes: int, pretrained: bool, image_size: int = 8) -> None:
        super().__init__(num_classes)
        self.pretrained, self.given_size = pretrained, image_size
        self.head = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.head(self.last(images)), 1)


def network(name: str, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(name, 3, NetworkOptions(**options))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no.such.Net", {}, "model_name: there is no module 'no.such', got 'no.such.Net'."),
        ("classifier.SmalCNN", {}, "model_name: classifier has no 'SmalCNN'"),
        ("classifier.ImageDataModule", {}, "model_name: is no torch.nn.Module"),
        (f"{__name__}.NoClasses", {"model_args": {"width": 2}}, "model_name: its __init__ takes no num_classes"),
        (f"{__name__}.NoClasses", {}, "model_args.width: missing."),
        (f"{__name__}.NoHead", {}, "model_name: the module has neither an attribute head nor"),
        ("classifier.SmallCNN", {"model_args": {"widht": 8}}, "model_args.widht: classifier.SmallCNN takes no 'widht'."),
        ("classifier.SmallCNN", {"model_args": {"width": 0}}, "model_args: classifier.SmallCNN refuses its arguments"),
        ("classifier.SmallCNN", {"drop_path_rate": 0.1}, "drop_path_rate: classifier.SmallCNN has no such rate"),
    ],
)  # fmt: skip
def test_module_that_cannot_be_built_is_told_by_its_key(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        network(name, **options)
    assert str(caught.value).startswith(f"model.init_args.{message}")


@pytest.mark.parametrize("pretrained", [True, False])
def test_module_states_its_preprocessing_and_is_told_of_weights_and_size(pretrained: bool) -> None:
    built = network(f"{__name__}.Stated", pretrained=pretrained, image_size=16)
    assert built.model.pretrained == pretrained
    assert built.model.given_size == 16
    assert (built.preprocessing.size, built.preprocessing.resize) == ((16, 16), (20, 20))
    again = rebuild_network(json.loads(json.dumps(built.spec)), 3)
    assert not again.model.pretrained
    assert again.model.given_size == 16


class FrozenByItsAuthor(NoHead):
    def __init__(self, num_classes: int) -> None:
        super().__init__(4)
        self.last.requires_grad_(False)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.last(images).mean((2, 3)))


class Pair(FrozenByItsAuthor):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images), images


def test_what_its_author_froze_stays_frozen() -> None:
    model = ImageClassifier(f"{__name__}.FrozenByItsAuthor", num_classes=3, pretrained=False)
    model.build()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"network.model.head.weight", "network.model.head.bias"}


def test_module_that_gives_no_logits_is_refused(config: Any, save: Any) -> None:
    config["model"]["init_args"]["model_name"] = f"{__name__}.Pair"
    with pytest.raises(ConfigError, match="gives logits of shape tuple for one image"):
        main(["--config", save(config)])


def test_checkpoint_that_points_timm_to_a_place_is_refused() -> None:
    spec = dict(build_network("timm/test_resnet", 3, NetworkOptions(pretrained=False)).spec)
    for change in (
        {"architecture": "local-dir:/tmp"},
        {"model_args": {"checkpoint_path": "/tmp/weights.pth"}},
    ):
        with pytest.raises(ConfigError):
            rebuild_network({**spec, **change}, 3)


def test_small_cnn_learns_a_colour_and_comes_back() -> None:
    torch.manual_seed(0)
    model = ImageClassifier("classifier.SmallCNN", num_classes=3, model_args={"width": 8})
    model.build()
    targets = torch.arange(12) % 3
    images = torch.randn(12, 3, 32, 32) * 0.1
    images[torch.arange(12), targets] += 1.0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert model.network is not None
    again = rebuild_network(json.loads(json.dumps(model.network.spec)), 3)
    again.load_state_dict(model.network.state_dict())
    assert torch.allclose(again.eval()(images), model.eval()(images), atol=1e-5)


@pytest.mark.parametrize(("size", "width", "depth"), [(16, 1, 0), ([32, 48], 6, 2), (64, 8, 1)])
def test_small_cnn_takes_its_sizes(size: Any, width: int, depth: int) -> None:
    built = network("classifier.SmallCNN", image_size=size, drop_rate=0.2,
                    model_args={"width": width, "depth": depth})  # fmt: skip
    blocks = [f"encoder.stage{stage}.{i}" for stage in (1, 2, 3) for i in range(1 + (depth > 0))]
    assert [group.name for group in built.layer_groups()] == ["encoder.stem", *blocks]
    assert built.model.dropout.p == 0.2
    assert built(torch.randn(2, 3, *built.preprocessing.size)).shape == (2, 3)
    assert built.channels_last


def test_small_cnn_has_the_parameters_that_its_manual_says() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SmallCNN(10).parameters()) == pytest.approx(2.3e6, rel=0.03)


# The whole program


@pytest.fixture
def own(workplace: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A configuration that trains a module from the working folder."""
    (workplace / "own_network.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(workplace))
    config["model"]["init_args"] |= {
        "model_name": "own_network.Net", "model_args": {"width": 6}, "pretrained": True,
    }  # fmt: skip
    yield config
    sys.modules.pop("own_network", None)


def test_checkpoint_of_an_own_module_needs_its_package_allowed(
    own: dict[str, Any], save: Callable[..., str], workplace: Path
) -> None:
    result = main(["--config", save(own), "--trainer.max_epochs", "1"])
    assert result is not None
    file = Path(result.output_dir, "checkpoints/best.ckpt")

    def forget() -> None:
        sys.modules.pop("own_network", None)
        (workplace / "marker").unlink(missing_ok=True)

    forget()
    with pytest.raises(ConfigError, match="add --allow_module own_network"):
        main(["--test", "--ckpt_path", str(file)])
    # The configuration may say what it likes: the network's own description is held to the same.
    checkpoint = load_checkpoint(file)
    checkpoint["config"]["model"]["init_args"]["model_name"] = "timm/test_resnet"
    checkpoint["hyper_parameters"]["model_name"] = "timm/test_resnet"
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="add --allow_module own_network"):
        main(["--test", "--ckpt_path", "x.ckpt"])
    with pytest.raises(ConfigError, match="import own_network before"):
        ImageClassifier.load_from_checkpoint("x.ckpt")
    assert not (workplace / "marker").exists()
    assert main(["--test", "--ckpt_path", str(file), "--allow_module", "own_network"]) is not None
    assert (workplace / "marker").exists()
    assert ImageClassifier.load_from_checkpoint(file).network is not None  # imported by now


def test_module_that_gives_no_logits_is_refused_before_training(
    own: dict[str, Any], save: Callable[..., str]
) -> None:
    own["model"]["init_args"]["model_name"] = "own_network.Wide"
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(own)])
    assert str(caught.value).startswith(
        "model.init_args.model_name: own_network.Wide gives logits of shape (1, 6, 7, 7) for one image"
    )


def test_small_cnn_trains_by_name_and_tests_from_its_checkpoint_alone(
    config: dict[str, Any], save: Callable[..., str]
) -> None:
    config["model"]["init_args"] |= {
        "model_name": "classifier.SmallCNN", "model_args": {"width": 4}, "image_size": 32,
        "head": {"hidden": 8, "dropout": 0.1},
    }  # fmt: skip
    config["data"]["init_args"]["augmentations"] = None
    result = main(["--config", save(config), "--trainer.max_epochs", "1"])
    assert result is not None
    tested = main(["--test", "--ckpt_path", result.output_dir])
    assert tested is not None and tested.status == "completed"
