"""The losses by name, on logits and class indices or shares of each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.model.tasks import MULTICLASS, MULTILABEL


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


# Those that train on shares. Targets are (N, C) floats, one-hot or mixed.


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy, divided by the weights of the batch's images.

    On one-hot targets torch.nn.CrossEntropyLoss on class indices. That class divides by the number
    of images where targets are mixed, so that class weights would change the learning rate.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None.
        task: Always multiclass.
        label_smoothing: In [0, 1): this share of each target is spread over all classes.
    """
    total = F.cross_entropy(
        logits, targets, weight=weights, reduction="sum", label_smoothing=label_smoothing
    )
    return total / _mass(targets, weights)


def bce(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    label_smoothing: float = 0.0,
    target_threshold: float | None = None,
    sum_classes: bool = False,
) -> Tensor:
    """Binary cross-entropy of every class against the others: the mean over images and classes.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None; a factor of each class's terms.
        task: multiclass or multilabel.
        label_smoothing: In [0, 1): multiclass spreads this share of each target over all classes,
            multilabel moves each target this far towards 0.5.
        target_threshold: In (0, 1): shares above it count as 1, others as 0; None keeps them.
        sum_classes: Add up the classes instead of taking their mean.

    Source: timm.loss.BinaryCrossEntropy; Wightman et al., "ResNet strikes back", 2021, section 3.
    """
    off = label_smoothing / (logits.shape[1] if task == MULTICLASS else 2)
    targets = targets * (1.0 - label_smoothing) + off
    if target_threshold is not None:
        targets = (targets > target_threshold).float()
    terms = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    return terms.sum(dim=1).mean() if sum_classes else terms.mean()


def focal(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    task: str,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss: the terms of the cross-entropy, smaller the surer the right answer is.

    Multiclass uses the softmax and divides by the weights of the batch's images, so that gamma 0 is
    `cross_entropy`; multilabel uses the sigmoid of every class and takes the mean of all terms.

    Args:
        logits: (N, C).
        targets: (N, C).
        weights: (C,) or None; the alpha of each class.
        task: multiclass or multilabel.
        gamma: From 0 on; 0 is the cross-entropy.
        alpha: Multilabel only: in [0, 1], the weight of a present class, 1 - alpha that of an
            absent one; None weighs both 1.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equations 4 and 5.
    """
    if task == MULTICLASS:
        log_chances = F.log_softmax(logits, dim=1)
        terms = -targets * log_chances * _unsure(log_chances.exp(), gamma)
        terms = terms if weights is None else terms * weights
        return terms.sum() / _mass(targets, weights)
    chances = logits.sigmoid()
    right = chances * targets + (1.0 - chances) * (1.0 - targets)
    terms = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    terms = terms * _unsure(right, gamma)
    if alpha is not None:
        terms = terms * (alpha * targets + (1.0 - alpha) * (1.0 - targets))
    return terms.mean()


def _unsure(chances: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma; the bound keeps the slope finite where p is 1 and gamma below 1."""
    return (1.0 - chances).clamp(min=torch.finfo(chances.dtype).eps).pow(gamma)


def _mass(targets: Tensor, weights: Tensor | None) -> Tensor:
    total = targets.sum() if weights is None else (targets @ weights).sum()
    return total.clamp(min=torch.finfo(targets.dtype).tiny)
