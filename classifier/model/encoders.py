"""One network for any source: an encoder with a classification head on it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classifier.errors import ConfigError
from classifier.model.freezing import LayerGroup
from classifier.preprocessing import Preprocessing

MODEL_NAME = "model.init_args.model_name"
PRETRAINED = "model.init_args.pretrained"


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is built, besides its name and the number of classes.

    Args:
        pretrained: Load the pretrained weights; False initialises at random.
    """

    pretrained: bool = True


class Network(nn.Module, ABC):
    """An encoder and its head, from any library.

    Args:
        model: The library's own module, already with a head for `num_classes`.
        preprocessing: What the encoder expects of an image.
        spec: Plain data from which `rebuild_network` makes the same architecture, without weights,
            without a network connection and without the folder that it was first loaded from.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, spec: dict[str, Any]):
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.spec = {**spec, "preprocessing": preprocessing.to_dict()}

    def resize_in(self, resize_mode: str) -> None:
        """Let images be resized in another way than the encoder's own: crop, squash or pad."""
        self.preprocessing = self.preprocessing.in_mode(resize_mode)
        self.spec["preprocessing"] = self.preprocessing.to_dict()

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""

    @abstractmethod
    def layer_groups(self) -> list[LayerGroup]:
        """The encoder's parameters in groups from the input to the output, without the head."""


# Source -> the module that builds and rebuilds its networks; imported when it is needed.
_SOURCES = {
    "timm": "classifier.model.timm_encoder",
    "transformers": "classifier.model.transformers_encoder",
}


def build_network(model_name: str, num_classes: int, options: NetworkOptions) -> Network:
    """Build a network by its name.

    Args:
        model_name: `timm/<name>`, `<org>/<name>` on the Hugging Face Hub, or a local folder that
            holds a timm or transformers model.
        num_classes: Outputs of the head, at least 1. The head is new unless the pretrained one has
            the same number of classes.
        options: Weights and parts of it.

    Raises:
        ConfigError: no such model, or its weights cannot be had.
    """
    source, location = locate(model_name)
    build: Callable[..., Network] = import_module(_SOURCES[source]).build
    return build(location, num_classes, options)


def rebuild_network(spec: Mapping[str, Any], num_classes: int) -> Network:
    """Build the architecture that a checkpoint describes, with random weights, offline.

    Args:
        spec: `Network.spec` of the saved network.
        num_classes: Outputs of the head.
    """
    rebuild: Callable[..., Network] = import_module(_SOURCES[spec["source"]]).rebuild
    return rebuild(spec, num_classes)


def locate(model_name: str) -> tuple[str, str]:
    """Which library a model name belongs to, and what that library calls it.

    Returns:
        The source, and a timm name, a timm `hf-hub:` or `local-dir:` location, a Hub name or a
        folder.

    Raises:
        ConfigError: the name is none of the three kinds, or the folder holds no model.
    """
    if model_name.startswith("timm/"):
        return "timm", model_name.removeprefix("timm/")
    if Path(model_name).is_dir():
        config_file = Path(model_name) / "config.json"
        if not config_file.is_file():
            raise ConfigError(
                MODEL_NAME, "the folder holds no config.json", got=model_name,
                remedy="Give a folder written by timm or by transformers' save_pretrained",
            )  # fmt: skip
        return _by_config(config_file, timm=f"local-dir:{model_name}", transformers=model_name)
    if model_name.count("/") == 1 and not model_name.startswith((".", "/", "~")):
        config_file = _hub_config(model_name)
        return _by_config(config_file, timm=f"hf-hub:{model_name}", transformers=model_name)
    raise ConfigError(
        MODEL_NAME, "no such model or folder", got=model_name,
        remedy="Write timm/<name>, <org>/<name> on the Hugging Face Hub, or an existing folder",
    )  # fmt: skip


def _by_config(config_file: Path, *, timm: str, transformers: str) -> tuple[str, str]:
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if "model_type" in config:
        return "transformers", transformers
    if "architecture" in config:
        return "timm", timm
    raise ConfigError(
        MODEL_NAME, "config.json names neither a timm architecture nor a transformers model_type",
        got=str(config_file), remedy="Use an image model of timm or transformers",
    )  # fmt: skip


def _hub_config(model_name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model_name, "config.json"))
    except (OSError, ValueError) as error:
        raise unavailable(model_name, error) from error


def unavailable(model_name: str, error: Exception) -> ConfigError:
    """The message for a model that cannot be loaded from where its name points."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(
        MODEL_NAME, f"could not be loaded ({reason.rstrip('.')})", got=model_name,
        remedy="Check the name and the network connection, or give a local folder",
    )  # fmt: skip
