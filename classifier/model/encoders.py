"""One network for any source: an encoder with a classification head on it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classifier.config import IMPORT_PATH
from classifier.errors import ConfigError
from classifier.model.freezing import LayerGroup
from classifier.model.heads import HeadLayers, replace_last_layers
from classifier.model.lora import Adapters, add_adapters, merge_adapters, restore_adapters
from classifier.model.memory_format import is_convolutional
from classifier.model.options import NetworkOptions as NetworkOptions
from classifier.model.sizes import build_for_size
from classifier.preprocessing import Preprocessing

MODEL_NAME = "model.init_args.model_name"
PRETRAINED = "model.init_args.pretrained"


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
        self.channels_last = False
        # Frozen by the author of the model, whatever the user freezes and frees.
        self.held = frozenset(n for n, p in self.named_parameters() if not p.requires_grad)
        self.adapters: Adapters | None = None

    def put_on(self, head: HeadLayers, num_classes: int) -> None:
        """Replace the last linear layer by a head of several layers.

        Args:
            head: The new head.
            num_classes: Outputs of the layer that it replaces.
        """
        names = {name for group in self.layer_groups() for name in group.parameters}
        encoder = [name.removeprefix("model.") for name in names]
        replace_last_layers(self.model, encoder, num_classes, head)
        self.spec["head"] = head.to_dict()

    def use_channels_last(self, wanted: bool | None) -> None:
        """Keep weights and images in the memory format that is wanted.

        Args:
            wanted: True for torch.channels_last, False for contiguous; None is channels_last for
                convolutional networks.
        """
        self.channels_last = is_convolutional(self.model) if wanted is None else wanted
        self.to(memory_format=self._memory_format)

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def resize_to(self, size: tuple[int, int]) -> None:
        """Let the network see images of another size, resized and cropped as before in proportion.

        Args:
            size: Height and width in pixels.
        """
        self.preprocessing = self.preprocessing.at_size(size)
        self.spec["preprocessing"] = self.preprocessing.to_dict()

    def resize_in(self, resize_mode: str) -> None:
        """Let images be resized in another way than the encoder's own: crop, squash or pad."""
        self.preprocessing = self.preprocessing.in_mode(resize_mode)
        self.spec["preprocessing"] = self.preprocessing.to_dict()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.logits(images)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """What `forward` gives, of images in the memory format of the weights."""

    def layer_groups(self) -> list[LayerGroup]:
        """The encoder's parameters in groups from the input to the output, without the head."""
        return self.own_layer_groups() if self.adapters is None else list(self.adapters.groups)

    @abstractmethod
    def own_layer_groups(self) -> list[LayerGroup]:
        """What `layer_groups` gives of a network without adapters."""

    def merge_adapters(self) -> None:
        """Become the network without adapters that gives the same logits."""
        merge_adapters(self)


# Source -> the module that builds and rebuilds its networks; imported when it is needed.
# A model name begins with the source and a slash, but for those in _WITHOUT_PREFIX.
_SOURCES = {
    "timm": "classifier.model.timm_encoder",
    "transformers": "classifier.model.transformers_encoder",
    "torchvision": "classifier.model.torchvision_encoder",
    "module": "classifier.model.module_encoder",
}
_WITHOUT_PREFIX = ("transformers", "module")


def build_network(model_name: str, num_classes: int, options: NetworkOptions) -> Network:
    """Build a network by its name.

    Args:
        model_name: `timm/<name>`, `torchvision/<name>`, `<org>/<name>` on the Hugging Face Hub, a
            local folder that holds a timm or transformers model, or the import path of a module.
        num_classes: Outputs of the head, at least 1. The head is new unless the pretrained one has
            the same number of classes.
        options: Weights and parts of it.

    Raises:
        ConfigError: no such model, its weights cannot be had, or an option that it does not have.
    """
    source, location = locate(model_name)
    build: Callable[..., Network] = import_module(_SOURCES[source]).build

    def with_options(chosen: NetworkOptions) -> Network:
        return build(location, num_classes, chosen)

    network: Network = build_for_size(with_options, options, model_name)
    head = options.head_layers()
    if head is not None:
        network.put_on(head, num_classes)
    network.use_channels_last(options.channels_last)
    if options.lora is not None:
        add_adapters(network, options.lora)
    return network


def rebuild_network(
    spec: Mapping[str, Any], num_classes: int, channels_last: bool | None = None
) -> Network:
    """Build the architecture that a checkpoint describes, with random weights, offline.

    Args:
        spec: `Network.spec` of the saved network.
        num_classes: Outputs of the head.
        channels_last: Of this process: a checkpoint's weights fit either memory format.
    """
    rebuild: Callable[..., Network] = import_module(_SOURCES[spec["source"]]).rebuild
    network = rebuild(spec, num_classes)
    if spec.get("head") is not None:
        network.put_on(HeadLayers.from_config(spec["head"]), num_classes)
    network.use_channels_last(channels_last)
    if spec.get("lora") is not None:
        restore_adapters(network, spec["lora"])
    return network


def locate(model_name: str) -> tuple[str, str]:
    """Which library a model name belongs to, and what that library calls it.

    Returns:
        The source, and a timm name, a timm `hf-hub:` or `local-dir:` location, a name of
        torchvision, a Hub name, a folder or an import path.

    Raises:
        ConfigError: the name is of no kind, or the folder holds no model.
    """
    library, _, name = model_name.partition("/")
    prefixes = [source for source in _SOURCES if source not in _WITHOUT_PREFIX]
    if name and library in prefixes:
        return library, name
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
    if IMPORT_PATH.match(model_name):
        return "module", model_name
    names = "".join(f"{source}/<name>, " for source in prefixes)
    raise ConfigError(
        MODEL_NAME, "no such model or folder", got=model_name,
        remedy=f"Write {names}<org>/<name> on the Hugging Face Hub, "
        "an existing folder, or the import path of a module",
        name=f"timm/{model_name}", options=_timm_names(model_name),
    )  # fmt: skip


def _timm_names(model_name: str) -> list[str]:
    import timm

    return [f"timm/{model_name}"] if timm.is_model(model_name.partition(".")[0]) else []


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
