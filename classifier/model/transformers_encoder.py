"""Networks from transformers, from the Hub or a local folder, with or without a head."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from classifier.errors import ConfigError
from classifier.model.freezing import modes_kept
from classifier.model.layer_groups import LayerGroup, group_by_label
from classifier.model.network import Network
from classifier.model.options import (
    IMAGE_SIZE,
    MODEL_ARGS,
    NetworkOptions,
    no_weights,
    refused_arguments,
    unavailable,
)
from classifier.model.positions import fit_positions
from classifier.model.transformers_config import (
    apply_options,
    as_pair,
    grid_of,
    plain,
    preprocessing_of,
    set_size,
    vision_part,
    without_code,
)
from classifier.preprocessing import Preprocessing

log = logging.getLogger(__name__)

# Up to two numbered levels make a layer: `vit.layers.3`, `resnet.encoder.stages.1.layers.0`.
_LAYER = re.compile(r"^(.+?\.\d+(?:\.[a-z_]+\.\d+)?)\.")
_NUMBERED_IN_BLOCK = re.compile(r"\.(?:mlp|attention|layer_norms?)\.\d+$")


class TransformersNetwork(Network):
    """A transformers model for image classification."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class PooledClassifier(nn.Module):
    """A transformers base model, pooled, with a linear head.

    Args:
        encoder: The model, of which a composite one (CLIP, BLIP) gives its vision part.
        features: Size of a pooled output; None finds it out with an empty image.
        num_classes: Outputs of the head.
        size: Height and width of that image in pixels.
    """

    base_model_prefix = "encoder"

    def __init__(
        self, encoder: Any, features: int | None, num_classes: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.config = encoder.config
        self.encoder: Any = getattr(encoder, "vision_model", encoder)
        if features is None:
            with modes_kept(self.encoder), torch.no_grad():
                self.encoder.eval()
                features = self._pooled(torch.zeros(1, 3, *size)).shape[1]
        self.features = features
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, pixel_values: Tensor) -> Any:
        """What a model of transformers with a head returns: `logits` (N, num_classes).

        Args:
            pixel_values: Normalised images (N, 3, H, W).
        """
        return SimpleNamespace(logits=self.classifier(self._pooled(pixel_values)))

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        """Features (N, F): the model's own pooling where it has one, else the mean over tokens."""
        outputs = self.encoder(pixel_values=pixel_values)
        pooled: Tensor | None = getattr(outputs, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = outputs.last_hidden_state
        if hidden.ndim == 4:  # (N, F, H, W), as convolutional networks give it
            return hidden.mean((2, 3))
        return hidden.mean(1)


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
        preprocessing = preprocessing_of(location, config)
    except (OSError, ValueError) as error:
        raise unavailable(location, error) from error
    config = _with_classes(config, num_classes)
    apply_options(config, options)
    of_weights = copy.deepcopy(config)
    if options.size is not None:
        set_size(config, options.size)
    size = options.size or preprocessing.size
    if options.pretrained:
        model = _pretrained(location, of_weights, num_classes, size, options)
        if options.size is not None:
            model = _at_size(model, config, num_classes, size)
    else:
        try:
            model = _from_config(config, num_classes, size)
        except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
            if options.model_args:
                raise refused_arguments(error, location, options.model_args) from error
            raise unavailable(location, error) from error
    spec: dict[str, Any] = {"source": "transformers", "config": plain(model.config)}
    if isinstance(model, PooledClassifier):
        spec["features"] = model.features
    return TransformersNetwork(model, preprocessing, spec, _layer_groups(model))


def rebuild(spec: Mapping[str, Any], num_classes: int) -> TransformersNetwork:
    """Build the architecture of a saved network, with random weights."""
    values = without_code(spec["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    preprocessing = Preprocessing.from_dict(spec["preprocessing"])
    model = _from_config(
        _with_classes(config, num_classes), num_classes, preprocessing.size, spec.get("features")
    )
    return TransformersNetwork(model, preprocessing, dict(spec), _layer_groups(model))


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
        raise no_weights(location, error) from error
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
        own_size = getattr(vision_part(config), "image_size", None)
        model = PooledClassifier(model, None, num_classes, as_pair(own_size or size))
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


def _layer_groups(model: Any) -> list[LayerGroup]:
    """Embeddings, numbered layers, norm, in the order of the model's parameters."""
    names = [name for name, _ in model.named_parameters()]
    prefix = f"{model.base_model_prefix}."
    return group_by_label({name: _layer(name) for name in names if name.startswith(prefix)})


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    if found is None:
        return ".".join(name.split(".")[:2])
    return _NUMBERED_IN_BLOCK.sub("", found[1])
