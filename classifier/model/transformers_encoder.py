"""Networks from transformers: AutoModelForImageClassification, from the Hub or a local folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig
from transformers.utils import logging as transformers_logging

from classifier.errors import ConfigError
from classifier.model.encoders import PRETRAINED, Network, NetworkOptions, unavailable
from classifier.model.freezing import LayerGroup, group_by_prefix
from classifier.preprocessing import Preprocessing

log = logging.getLogger(__name__)

# Up to two numbered levels make a layer: `vit.layers.3`, `resnet.encoder.stages.1.layers.0`.
_LAYER = re.compile(r"^(.+?\.\d+(?:\.[a-z_]+\.\d+)?)\.")
_NUMBERED_IN_BLOCK = re.compile(r"\.(?:mlp|attention|layer_norms?)\.\d+$")
# PIL's resampling numbers, as a preprocessor_config.json holds them.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area", 5: "bicubic"}
_ALWAYS_SQUASHED_FROM = 384  # ConvNeXT: from this size on, no crop
_HALF = [0.5, 0.5, 0.5]


class TransformersNetwork(Network):
    """A transformers model for image classification."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits

    def layer_groups(self) -> list[LayerGroup]:
        """Embeddings, numbered layers, norm, in the order of the model's parameters."""
        prefix = f"model.{self.model.base_model_prefix}."
        names = [
            f"model.{name}"
            for name, _ in self.model.named_parameters()
            if f"model.{name}".startswith(prefix)
        ]
        return group_by_prefix(names, {name: _layer(name) for name in names})


def build(location: str, num_classes: int, options: NetworkOptions) -> TransformersNetwork:
    """Build a transformers network.

    Args:
        location: `<org>/<name>` on the Hub or a local folder.
        num_classes: Outputs of the head; re-initialised where the pretrained one has another size.
        options: Weights and parts of it; the weights come as float32.

    Raises:
        ConfigError: no such model, it is no image classifier, or its weights cannot be had.
    """
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        preprocessing = _preprocessing(_processor_config(location), config)
    except (OSError, ValueError) as error:
        raise unavailable(location, error) from error
    config = _with_classes(config, num_classes)
    if not options.pretrained:
        return _wrap(_from_config(config), preprocessing)
    try:
        with _quiet():
            model, loading = AutoModelForImageClassification.from_pretrained(
                location,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            PRETRAINED, f"the weights of {location} could not be loaded ({reason.rstrip('.')})",
            got=True, remedy="Check the network connection, or write pretrained: false",
        ) from error  # fmt: skip
    network = _wrap(model, preprocessing)
    _report_missing(network, location, loading)
    return network


def rebuild(spec: Mapping[str, Any], num_classes: int) -> TransformersNetwork:
    """Build the architecture of a saved network, with random weights."""
    values = dict(spec["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model = _from_config(_with_classes(config, num_classes))
    return TransformersNetwork(model, Preprocessing.from_dict(spec["preprocessing"]), dict(spec))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report of the re-initialised head, which is meant to happen, silent."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _report_missing(network: Network, location: str, loading: Mapping[str, Any]) -> None:
    encoder = {name for group in network.layer_groups() for name in group.parameters}
    mismatched = {item[0] for item in loading["mismatched_keys"]}
    missing = sorted({f"model.{k}" for k in loading["missing_keys"] | mismatched} & encoder)
    if missing:
        log.warning(
            "%s lacks the weights of %d of %d encoder parameters; these start at random: %s",
            location, len(missing), len(encoder), ", ".join(missing[:3]),
        )  # fmt: skip


def _with_classes(config: PretrainedConfig, num_classes: int) -> PretrainedConfig:
    # id2label wins over num_labels, so both are set.
    config.id2label = {index: f"LABEL_{index}" for index in range(num_classes)}
    config.label2id = {label: index for index, label in config.id2label.items()}
    config.problem_type = "single_label_classification"
    config.architectures = config.architectures or []
    return config


def _from_config(config: PretrainedConfig) -> Any:
    try:
        return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise unavailable(config.name_or_path or str(config.model_type), error) from error


def _wrap(model: Any, preprocessing: Preprocessing) -> TransformersNetwork:
    config = json.loads(model.config.to_json_string(use_diff=False))
    for key in ("_name_or_path", "id2label", "label2id", "torch_dtype", "dtype"):
        config.pop(key, None)
    spec = {"source": "transformers", "config": config}
    return TransformersNetwork(model, preprocessing, spec)


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    if found is None:
        return ".".join(name.split(".")[1:3])
    return _NUMBERED_IN_BLOCK.sub("", found[1]).removeprefix("model.")


def _processor_config(location: str) -> dict[str, Any]:
    """The preprocessor_config.json beside the model; empty when it has none."""
    from transformers.utils import cached_file

    file = cached_file(
        location, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
    )
    return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _preprocessing(processor: Mapping[str, Any], config: PretrainedConfig) -> Preprocessing:
    default = getattr(config, "image_size", None) or 224
    size = processor.get("size", default)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    resize = _pair(size)
    resize_mode = "crop" if edge is not None else "squash"
    if processor.get("do_center_crop", False) and "crop_size" in processor:
        crop = _pair(processor["crop_size"])
    elif edge is not None and "crop_pct" in processor:
        # ConvNeXT's and ResNet's processor: enlarge by crop_pct, then crop back.
        crop = resize
        if edge < _ALWAYS_SQUASHED_FROM:
            enlarged = int(edge / (processor["crop_pct"] or 224 / 256))
            resize = (enlarged, enlarged)
        else:
            resize_mode = "squash"
    else:
        crop = resize
    return Preprocessing(
        size=crop,
        resize=resize,
        resize_mode=resize_mode,
        interpolation=_RESAMPLE.get(processor.get("resample", 2), "bilinear"),
        mean=tuple(processor.get("image_mean") or _HALF),
        std=tuple(processor.get("image_std") or _HALF),
    )


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        if "height" in size:
            return int(size["height"]), int(size["width"])
        edge = size.get("shortest_edge") or size.get("longest_edge") or 224
        return int(edge), int(edge)
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[1])
    return int(size), int(size)
