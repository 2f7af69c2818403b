"""Small networks to be exported, and what a writer is told of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from classifier.export.order import Order
from classifier.inference.description import Description
from classifier.model.encoders import build_network
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.preprocessing import Pixels

CLASS_NAMES = ["blue", "grün", "red"]


def small_network(name: str = "timm/test_resnet", **options: Any) -> Network:
    """Of random weights, for three classes, in eval mode; normalisations do something."""
    torch.manual_seed(0)
    network = build_network(name, 3, NetworkOptions(pretrained=False, **options))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def order_of(network: Network, format: str, **changes: Any) -> Order:
    """What a writer is given for a network."""
    values: dict[str, Any] = {
        "format": format, "class_names": CLASS_NAMES, "task": "multiclass",
        "preprocessing": network.preprocessing, **changes,
    }  # fmt: skip
    return Order(network, Description(**values), {})


def noise(network: Network, number: int, seed: int = 0) -> Pixels:
    """Prepared images (N, height, width, 3)."""
    shape = (number, *network.preprocessing.size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(
    network: Network, images: Pixels, temperature: float = 1.0, several: bool = False
) -> Any:
    """Probabilities by the network's own forward, with a normalisation written out here."""
    preprocessing = network.preprocessing
    normalised = (images / 255.0 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    pixels = torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        logits = network(pixels) / temperature
    return (logits.sigmoid() if several else logits.softmax(1)).numpy()
