"""A whole model as one torch module: from prepared images to calibrated probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classifier.inference.description import UINT8, Description
from classifier.model.network import Network

# Exporters take a batch dimension of 1 for a constant, so that their example has two images.
_EXAMPLES = 2


class Graph(nn.Module):
    """What a file that normalises consists of: normalisation, network, temperature, softmax.

    It answers as `ImageClassifier.predict_step` does.

    Args:
        network: In eval mode. In half precision it computes in half, while normalisation and
            softmax stay in float32.
        description: How images come, and how logits become probabilities.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, description: Description) -> None:
        super().__init__()
        self.network = network
        self.from_uint8 = description.input == UINT8
        self.several = description.several
        self.temperature = description.temperature
        self.size = description.preprocessing.size
        # As the classifier's own buffers, so that every bit of the normalised images is the same.
        scale = 255.0 if self.from_uint8 else 1.0
        for side in ("mean", "std"):
            values = torch.tensor(getattr(description.preprocessing, side)) * scale
            self.register_buffer(side, values.view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (N, height, width, 3) uint8, or (N, 3, height, width) float32 in [0, 1], as the
                description's `input` says.

        Returns:
            Probabilities (N, num_classes) in float32.
        """
        if self.from_uint8:
            # In the network's own memory format, which spares a copy, and in a file the steps that
            # an exporter writes to imitate strides.
            images = images.permute(0, 3, 1, 2).to(
                self.mean.dtype, memory_format=_memory_format(self.network)
            )
        pixels = (images - self.mean) / self.std
        logits: Tensor = self.network(pixels.to(self._precision()))
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits.sigmoid() if self.several else logits.softmax(dim=1)

    def example(self) -> Tensor:
        """Images as `forward` takes them, all black: what an exporter is shown."""
        height, width = self.size
        if self.from_uint8:
            return torch.zeros(_EXAMPLES, height, width, 3, dtype=torch.uint8)
        return torch.zeros(_EXAMPLES, 3, height, width)

    def _precision(self) -> torch.dtype:
        """Of the network's weights."""
        first = next((p for p in self.network.parameters() if p.is_floating_point()), self.mean)
        return first.dtype


def _memory_format(network: Network) -> torch.memory_format:
    return torch.channels_last if network.channels_last else torch.contiguous_format
