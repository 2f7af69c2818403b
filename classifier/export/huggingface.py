"""A folder that transformers.pipeline("image-classification", folder) opens, and timm where it can.

The files are the libraries' own: config.json, model.safetensors, and of a transformers encoder the
configuration of its image processor. A pipeline knows of no temperature, so that the weights of the
last layer are divided by it. Thresholds have no place in a pipeline: only the Predictor heeds them.

A pipeline reads a file as `Image.convert("RGB")` does. Where an image is transparent, the colours
that are hidden in it appear, not the background; 16-bit grey becomes white. Photographs that were
written so got wholly other answers from a pipeline than from the Predictor on the same folder; JPEG
files of any kind, EXIF orientation included, get the same.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from classifier.errors import ConfigError, RunError, reason_of
from classifier.export.image_processors import pillow_processor, timm_data_config
from classifier.export.order import Order
from classifier.formats import FILES
from classifier.inference.description import KEY, Description
from classifier.inference.huggingface_route import without_bars
from classifier.model.heads import logit_layers
from classifier.model.network import Network

log = logging.getLogger(__name__)

CONFIG = "config.json"
CARD = "README.md"
_FLAG = "--export"
_FORMAT = "huggingface"
_OTHERS = "Write --export onnx, torch_export, torchscript or safetensors"
_PROBLEMS = {False: "single_label_classification", True: "multi_label_classification"}
_HALF = 0.5


def write(order: Order, folder: Path) -> Description:
    """Write a network of timm or transformers as these libraries keep theirs.

    Args:
        order: With the library's own head.
        folder: Exists, and is empty.

    Returns:
        What config.json carries. Its temperature is in the weights already.

    Raises:
        ConfigError: a network, a way to prepare images or a precision that a pipeline cannot have.
        RunError: the library cannot write this network.
    """
    source = order.network.spec["source"]
    check(order.network, order.description)
    _tell_of_thresholds(order.description)
    software = {name: version(name) for name in ("torch", source)}
    description = replace(order.description, software=order.description.software | software)
    save = _WRITERS[source]
    network = _with_temperature(order.network, description)
    network.use_channels_last(False)  # files hold contiguous weights alone
    if description.precision == "fp16":
        network.half()
    try:
        save(network, description, folder)
    except (OSError, ConfigError):
        raise
    except Exception as error:  # each library, and each of its models, has errors of its own here
        name = type(network.model).__name__
        raise RunError(f"{source} cannot write a {name} ({reason_of(error)}). {_OTHERS}") from error
    # safetensors writes for this user alone; a server may run as another.
    (folder / FILES["safetensors"]).chmod((folder / CONFIG).stat().st_mode)
    if order.card:
        (folder / CARD).write_text(order.card, encoding="utf-8")
    return description


def check(network: Network, description: Description) -> None:
    """Refuse what no pipeline could open, or would answer otherwise.

    Args:
        network: With or without adapters.
        description: What the folder is to carry.

    Raises:
        ConfigError: a network, a way to prepare images or a precision that a pipeline cannot have.
    """
    source = network.spec["source"]
    kind = type(network.model).__name__
    problem = None
    if source not in _WRITERS:
        problem = f"transformers has no class for {kind}, which is none of timm or transformers"
    elif network.spec.get("head") is not None:
        problem = f"{source} has no {kind} with a head of several layers (model.init_args.head)"
    elif source == "transformers" and "features" in network.spec:
        model_type = network.model.config.model_type
        problem = f"transformers has no class that classifies images with {model_type}"
    elif len(description.class_names) == 1 and not description.several:
        problem = "a pipeline takes a single class for one that an image may lack"
    if problem is not None:
        raise ConfigError(_FLAG, problem, got=_FORMAT, remedy=_OTHERS)
    if description.precision not in ("fp32", "fp16"):
        raise ConfigError(
            "--precision", f"{_FORMAT} has no such weights", got=description.precision,
            remedy="Write fp32 or fp16, or --export onnx",
        )  # fmt: skip
    prepares = {"timm": timm_data_config, "transformers": pillow_processor}[source]
    prepares(description.preprocessing)


def _tell_of_thresholds(description: Description) -> None:
    tuned = [limit for limit in description.thresholds or [] if limit != _HALF]
    if tuned:
        log.warning(
            "a pipeline knows of no thresholds: it gives probabilities, and leaves the decisions "
            "to its user; the tuned thresholds are in %s under %s, where the Predictor reads them",
            CONFIG, KEY,
        )  # fmt: skip


def _with_temperature(network: Network, description: Description) -> Network:
    """A copy of a network, whose logits are calibrated by its weights.

    Raises:
        ConfigError: dividing the last layer's weights does not divide the logits.
    """
    copied: Network = copy.deepcopy(network)
    temperature = description.temperature
    if temperature == 1.0:
        return copied
    layers = logit_layers(copied, len(description.class_names)).values()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *network.preprocessing.size, generator=generator)
    with torch.no_grad():
        for parameter in (p for layer in layers for p in layer.parameters()):
            parameter.div_(temperature)
        expected, found = network(images) / temperature, copied(images)
    tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
    if not torch.allclose(found, expected, rtol=0.0, atol=tolerance):
        raise ConfigError(
            _FLAG, f"a pipeline knows of no temperature, and {type(network.model).__name__} has no "
            "last layer that could hold it", got=_FORMAT, remedy=_OTHERS,
        )  # fmt: skip
    return copied


def _write_timm(network: Network, description: Description, folder: Path) -> None:
    """As timm keeps its models on the Hub, with what transformers' wrapper of timm wants beside."""
    from timm.models import save_for_hf

    names = description.class_names
    ours = {
        "label_names": names,
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
        "problem_type": _PROBLEMS[description.several],
        "dtype": _dtype(description),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        KEY: description.to_dict(),
    }
    save_for_hf(
        network.model,
        str(folder),
        model_config=ours,
        data_config=timm_data_config(description.preprocessing),
        safe_serialization=True,
    )
    # transformers gives timm the number of classes, and trips over a second one.
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_transformers(network: Network, description: Description, folder: Path) -> None:
    """As transformers' save_pretrained does, with a processor that computes as this program."""
    processor = pillow_processor(description.preprocessing)
    names = description.class_names
    config = network.model.config
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = _PROBLEMS[description.several]
    config.name_or_path = ""  # a folder of this machine, where it was one
    setattr(config, KEY, description.to_dict())
    with without_bars():
        network.model.save_pretrained(str(folder))
    for name, content in processor.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _dtype(description: Description) -> str:
    return "float16" if description.precision == "fp16" else "float32"


_WRITERS: dict[str, Callable[[Network, Description, Path], Any]] = {
    "timm": _write_timm,
    "transformers": _write_transformers,
}
