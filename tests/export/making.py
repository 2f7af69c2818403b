"""Small models, and the orders that their exports are written from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifier import ImageClassifier
from classifier.export.order import Order
from classifier.inference.description import Description
from classifier.model.answers import Calibration

BATCHES = (1, 2, 7)


def model_of(
    name: str = "timm/test_resnet", *, task: str = "multiclass", temperature: float = 1.5,
    image_size: int | None = 32, **arguments: Any,
) -> ImageClassifier:  # fmt: skip
    """A classifier of three classes with random weights, in eval mode."""
    torch.manual_seed(0)
    model = ImageClassifier(name, pretrained=False, image_size=image_size, **arguments)
    model.build(["ant", "bee, wild", "Käfer"], task)
    model.calibration = Calibration(temperature=temperature)
    model.eval()
    _tell_classes_apart(model)
    return model


def _tell_classes_apart(model: ImageClassifier) -> None:
    """Change the head so that logits of random weights are as unlike as those of trained ones."""
    assert model.network is not None
    *_, weight, bias = model.network.parameters()
    assert bias.shape == (3,)
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels_of(model, 16)).permute(0, 3, 1, 2))
        scale = logits.std(0)
        bias.sub_(logits.mean(0)).div_(scale)
        weight.div_(scale[:, None])


def order_of(model: ImageClassifier, opset: int | None = None, **fields: Any) -> Order:
    """An export of it as --export orders it."""
    assert model.network is not None and model.class_names is not None and model.task is not None
    description = Description(
        "onnx", model.class_names, model.task, model.preprocessing,
        temperature=model.calibration.temperature, **fields,
    )  # fmt: skip
    return Order(model.network, description, {}, opset)


def pixels_of(model: ImageClassifier, number: int) -> NDArray[np.uint8]:
    """Images (number, height, width, 3): of a colour each, with noise."""
    generator = np.random.default_rng(number)
    colours = generator.integers(0, 200, (number, 1, 1, 3))
    noise = generator.integers(0, 56, (number, *model.preprocessing.size, 3))
    return (colours + noise).astype(np.uint8)


def answers_of(model: ImageClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, num_classes) as --predict gives them."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        found: NDArray[np.float32] = model.predict_step((images,), 0).numpy()
    return found
