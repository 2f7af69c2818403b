"""Networks by name, of any library, and rebuilt from what a checkpoint says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from classifier.config import IMPORT_PATH
from classifier.errors import ConfigError, reason_of
from classifier.model.heads import HeadLayers, replace_head
from classifier.model.lora import add_adapters, restore_adapters
from classifier.model.network import Network
from classifier.model.options import IMAGE_SIZE, MODEL_NAME, NetworkOptions, unavailable

_Build = Callable[[NetworkOptions], Network]
_STEP = 32  # most architectures reduce an image 32 times, or cut it into patches of 8, 14, 16 or 32
# Source -> the module that builds and rebuilds its networks; imported when it is needed.
# A model name begins with the source and a slash, but for those in _WITHOUT_PREFIX.
_SOURCES = {
    "timm": "classifier.model.timm_encoder",
    "transformers": "classifier.model.transformers_encoder",
    "torchvision": "classifier.model.torchvision_encoder",
    "module": "classifier.model.module_encoder",
}
_WITHOUT_PREFIX = ("transformers", "module")
_TIMM_WRAPPER = "timm_wrapper"


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
    source, location = _locate(model_name)
    build: Callable[..., Network] = import_module(_SOURCES[source]).build

    def with_options(chosen: NetworkOptions) -> Network:
        network = build(location, num_classes, chosen)
        if chosen.size is not None:
            network.expect(network.preprocessing.at_size(chosen.size))
        return network

    network = _build_for_size(with_options, options, model_name)
    head = options.head_layers()
    if head is not None:
        replace_head(network, head, num_classes)
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
        replace_head(network, HeadLayers.from_config(spec["head"]), num_classes)
    network.use_channels_last(channels_last)
    if spec.get("lora") is not None:
        restore_adapters(network, spec["lora"])
    return network


def _build_for_size(build: _Build, options: NetworkOptions, model_name: str) -> Network:
    """Build a network, and make sure that it takes images of the size that is asked for.

    Raises:
        ConfigError: the architecture refuses the size; names sizes that work.
    """
    if options.size is None:
        return build(options)
    try:
        network = build(options)
        network.try_out()
    except Exception as error:
        # Each architecture has a way of its own to refuse a size. Whether it was the size is found
        # out with random weights; any other mistake goes on as it is.
        without = replace(options, pretrained=False, image_size=None)
        if _works(build, replace(options, pretrained=False)) or not _works(build, without):
            raise
        found = error.text if isinstance(error, ConfigError) else reason_of(error)
        pixels = " x ".join(str(side) for side in options.size)
        sizes = ", ".join(str(size) for size in _sizes_that_work(build, without, options.size))
        raise ConfigError(
            IMAGE_SIZE,
            f"{model_name} takes no images of {pixels} pixels ({found[:160].rstrip('.')})",
            got=options.image_size, remedy=f"Sizes that work are {sizes}",
        ) from error  # fmt: skip
    return network


def _works(build: _Build, options: NetworkOptions) -> bool:
    try:
        build(options).try_out()
    except Exception:  # whatever it is, it does not work
        return False
    return True


def _sizes_that_work(build: _Build, plain: NetworkOptions, asked: tuple[int, int]) -> Iterator[int]:
    """The encoder's own size, and multiples of 32 next to the size that was asked for."""
    own = build(plain).preprocessing.size[0]
    near = {_STEP * (max(asked) // _STEP + step) for step in range(3)} - {0}
    for size in sorted(near | {own}):
        if size == own or _works(build, replace(plain, image_size=size)):
            yield size


def _locate(model_name: str) -> tuple[str, str]:
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
    # transformers' wrapper of timm writes its own name into timm's file.
    if "architecture" in config and config.get("model_type", _TIMM_WRAPPER) == _TIMM_WRAPPER:
        return "timm", timm
    if "model_type" in config:
        return "transformers", transformers
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
