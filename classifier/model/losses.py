"""The loss of each task, and the weights of the classes in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.errors import ConfigError
from classifier.model.tasks import MULTILABEL, PerClass, by_key, per_class

AUTO = "auto"
_KEY = "model.init_args.class_weights"
_MOST_SHOWN = 12


def classification_loss(
    logits: Tensor, targets: Tensor, task: str, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, or the binary cross-entropy of every class when there are several labels.

    With weights, the cross-entropy is divided by the sum of the weights of the batch's images, as
    torch.nn.CrossEntropyLoss defines it; a batch of weight 0 has the loss 0. The binary one is the
    mean over images and classes of the weighted terms.

    Args:
        logits: (N, C).
        targets: (N,) class indices, or (N, C) ones and zeros in multilabel.
        task: multiclass or multilabel.
        weights: (C,) float32; None weighs all classes alike.
    """
    logits = logits.float()
    if task == MULTILABEL:
        return F.binary_cross_entropy_with_logits(logits, targets.float(), weight=weights)
    if weights is None:
        return F.cross_entropy(logits, targets)
    total = F.cross_entropy(logits, targets, weight=weights, reduction="sum")
    return total / weights[targets].sum().clamp(min=torch.finfo(torch.float32).tiny)


def check_weights(given: str | PerClass | None) -> None:
    """Refuse weights that cannot be, before the classes are known.

    Args:
        given: As the user wrote them.
    """
    if given is None or given == AUTO:
        return
    if isinstance(given, str):
        raise ConfigError(
            _KEY, "must be auto, weights by class name, or a list of weights", got=given,
            remedy="Write auto or null", name=given, options=[AUTO],
        )  # fmt: skip
    for key, value in by_key(given, _KEY).items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(
                key, "must be a number from 0 on", got=value, remedy="Write for example 1.0"
            )  # fmt: skip


def resolve_weights(
    given: str | PerClass | None, class_names: Sequence[str], class_counts: Sequence[int] | None
) -> Tensor | None:
    """The weight of every class in the training loss, (C,) float32; None without weights.

    Args:
        given: As the user wrote them; classes that are not named weigh 1.0.
        class_names: In the order of the logits.
        class_counts: Training images per class, which `auto` needs.

    Raises:
        ConfigError: names, numbers or counts that do not fit.
    """
    check_weights(given)
    if given is None:
        return None
    if not isinstance(given, str):
        weights = torch.tensor(per_class(given, class_names, _KEY, 1.0), dtype=torch.float32)
        if not weights.any():
            raise ConfigError(
                _KEY, "leaves no class to learn: every weight is 0", got=given,
                remedy="Write null to weigh all classes alike",
            )  # fmt: skip
        return weights
    if class_counts is None:
        raise ConfigError(
            _KEY, "the data does not say how many images its classes have", got=given,
            remedy="Write the weights by class name",
        )  # fmt: skip
    return balanced_weights(class_counts)


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Weights inverse to the frequency, (C,) float32, with mean 1.0.

    Args:
        class_counts: Training images per class; a class without any weighs 1.0.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = torch.ones_like(counts)
    found = counts > 0
    if found.any():
        inverse = counts[found].reciprocal()
        weights[found] = inverse / inverse.mean()
    return weights.float()


def shown_weights(weights: Tensor, class_names: Sequence[str]) -> str:
    """Class names with their weights, in one line.

    Args:
        weights: (C,).
        class_names: In the order of the logits.
    """
    pairs = zip(class_names, weights.tolist(), strict=True)
    parts = [f"{name} {weight:.3g}" for name, weight in pairs]
    return ", ".join(parts if len(parts) <= _MOST_SHOWN else [*parts[:10], f"... {parts[-1]}"])
