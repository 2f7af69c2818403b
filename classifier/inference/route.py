"""Route: what every runtime of a model has in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from classifier.inference.description import Description
from classifier.preprocessing import Pixels

Probabilities = NDArray[np.float32]


class Route(Protocol):
    """A model in the runtime of its format. Several threads may call one at the same time."""

    description: Description

    def probabilities(self, images: Pixels) -> Probabilities:
        """What the model says of prepared images.

        Args:
            images: (N, height, width, 3) uint8, as `Preprocessing.prepare` gives them, N >= 1.

        Returns:
            (N, num_classes) float32: calibrated; they add up to 1 where classes exclude each other.
        """
        ...
