"""Networks from transformers, from the Hub or a local folder, with or without a head."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from classifier.errors import ConfigError
from classifier.model.encoders import PRETRAINED, Network, NetworkOptions, unavailable
from classifier.model.freezing import LayerGroup, group_by_prefix
from classifier.model.options import IMAGE_SIZE, MODEL_ARGS, refused_arguments
from classifier.model.pooled import PooledClassifier
from classifier.model.positions import fit_positions
from classifier.model.transformers_config import (
    apply_options,
    as_pair,
    grid_of,
    plain,
    without_code,
)
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

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits

    def own_layer_groups(self) -> list[LayerGroup]:
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
        ConfigError: no such model, it takes no images, its weights cannot be had, or it does not
            have what the options set.
    """
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        preprocessing = _preprocessing(_processor_config(location), config)
    except (OSError, ValueError) as error:
        raise unavailable(location, error) from error
    config = _with_classes(config, num_classes)
    original = copy.deepcopy(config)
    apply_options(config, options)
    if options.size is not None:
        preprocessing = preprocessing.at_size(options.size)
    if not options.pretrained:
        try:
            model = _from_config(config, num_classes, preprocessing.size)
        except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
            if options.model_args:
                raise refused_arguments(error, location, options.model_args) from error
            raise unavailable(location, error) from error
        return _wrap(model, preprocessing)
    loaded_as = copy.deepcopy(config)
    if getattr(original, "image_size", None) is not None:
        loaded_as.image_size = original.image_size
    elif hasattr(original, "vision_config"):
        loaded_as.vision_config.image_size = original.vision_config.image_size
    model = _pretrained(location, loaded_as, num_classes, preprocessing.size, options)
    if options.size is not None:
        model = _at_size(model, config, num_classes, preprocessing.size)
    return _wrap(model, preprocessing)


def rebuild(spec: Mapping[str, Any], num_classes: int) -> TransformersNetwork:
    """Build the architecture of a saved network, with random weights."""
    values = without_code(spec["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    model = _from_config(
        _with_classes(config, num_classes), num_classes, preprocessing.size, spec.get("features")
    )
    return TransformersNetwork(model, preprocessing, dict(spec))


def _auto_class(config: PretrainedConfig) -> Any:
    """The class with a head for classification where transformers has one, else the base model."""
    for auto in (AutoModelForImageClassification, AutoModel):
        if type(config) in auto._model_mapping:
            return auto
    raise unavailable(str(config.model_type), ValueError("transformers has no such image model"))


def _from_config(
    config: PretrainedConfig,
    num_classes: int,
    size: tuple[int, int],
    features: int | None = None,
) -> Any:
    auto = _auto_class(config)
    model = auto.from_config(config, trust_remote_code=False)
    if auto is AutoModel:
        return PooledClassifier(model, features, num_classes, size)
    return model


def _pretrained(
    location: str,
    config: PretrainedConfig,
    num_classes: int,
    size: tuple[int, int],
    options: NetworkOptions,
) -> Any:
    """The model with the weights of a place, as float32; of the head only what fits."""
    auto = _auto_class(config)
    try:
        with _quiet():
            model, loading = auto.from_pretrained(
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
    prefix = f"{model.base_model_prefix}." if auto is AutoModelForImageClassification else ""
    encoder = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    mismatched = {item[0] for item in loading["mismatched_keys"]}
    if mismatched & encoder and options.model_args:
        raise ConfigError(
            MODEL_ARGS, f"the weights of {location} do not fit ({min(mismatched & encoder)} has "
            "another shape)", got=dict(options.model_args),
            remedy="Remove what changes the shape, or write pretrained: false",
        )  # fmt: skip
    _report_missing(location, encoder, loading["missing_keys"] | mismatched)
    if auto is AutoModel:
        log.info("%s has no head for classification: its outputs are pooled", location)
        model = PooledClassifier(model, None, num_classes, as_pair(_size_of(config) or size))
    return model


def _at_size(model: Any, config: PretrainedConfig, num_classes: int, size: tuple[int, int]) -> Any:
    """A model with the same weights for images of another size."""
    features = getattr(model, "features", None)
    resized = _from_config(config, num_classes, size, features)
    shapes = {name: value.shape for name, value in resized.state_dict().items()}
    weights = model.state_dict()
    if all(weights[name].shape == shape for name, shape in shapes.items()):
        resized.load_state_dict(weights)
        return resized
    fitting, lost = fit_positions(weights, shapes, grid_of(model.config), grid_of(config))
    if lost:
        raise ConfigError(
            IMAGE_SIZE, f"the weights of {config.model_type} fit one size only ({lost[0]})",
            got=list(size), remedy="Write null for its own",
        )  # fmt: skip
    resized.load_state_dict(fitting)
    return resized


def _size_of(config: PretrainedConfig) -> Any:
    return getattr(getattr(config, "vision_config", config), "image_size", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report of the re-initialised head, which is meant to happen, silent."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _report_missing(location: str, encoder: set[str], missing: set[str]) -> None:
    """Say which weights are new: the head's, as is usual, or some of the encoder's."""
    lacking = sorted(missing & encoder)
    if lacking:
        log.warning(
            "%s lacks the weights of %d of %d encoder parameters; these start at random: %s",
            location, len(lacking), len(encoder), ", ".join(lacking[:3]),
        )  # fmt: skip
    if missing - encoder:
        log.info("%s: the classification head is new", location)


def _with_classes(config: PretrainedConfig, num_classes: int) -> PretrainedConfig:
    # id2label wins over num_labels, so both are set.
    config.id2label = {index: f"LABEL_{index}" for index in range(num_classes)}
    config.label2id = {label: index for index, label in config.id2label.items()}
    config.problem_type = "single_label_classification"
    config.architectures = config.architectures or []
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # a masked autoencoder hides most patches, from a classifier too
    return config


def _wrap(model: Any, preprocessing: Preprocessing) -> TransformersNetwork:
    spec: dict[str, Any] = {"source": "transformers", "config": plain(model.config)}
    if isinstance(model, PooledClassifier):
        spec["features"] = model.features
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
