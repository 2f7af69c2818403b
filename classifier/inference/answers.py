"""From probabilities to answers: which classes are likeliest, and which an image has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from classifier.inference.description import Description


def ranked(probabilities: NDArray[np.float32]) -> NDArray[np.intp]:
    """Class indices (N, num_classes), the likeliest first; of equals the smaller index.

    Args:
        probabilities: (N, num_classes).
    """
    return np.argsort(-probabilities, axis=1, kind="stable")


def decided(probabilities: NDArray[np.float32], description: Description) -> NDArray[np.bool_]:
    """Which classes an image has, (N, num_classes); where classes exclude each other always one.

    The same as `Answers.decisions` of the model, without torch.

    Args:
        probabilities: (N, num_classes).
        description: Whose thresholds decide.
    """
    if description.several:
        limits: NDArray[np.bool_] = probabilities >= np.array(description.thresholds, np.float32)
        return limits
    positive, thresholds = description.positive, description.thresholds
    if positive is None or thresholds is None:
        chosen = probabilities.argmax(axis=1)
    else:
        reached = probabilities[:, positive] >= np.float32(thresholds[0])
        chosen = np.where(reached, positive, 1 - positive)
    decisions = np.zeros(probabilities.shape, bool)
    decisions[np.arange(len(chosen)), chosen] = True
    return decisions
