"""A head for transformers models that come without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


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
            was_training = self.encoder.training
            self.encoder.eval()
            with torch.no_grad():
                features = self._pooled(torch.zeros(1, 3, *size)).shape[1]
            self.encoder.train(was_training)
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
