"""WorstErrors: the wrong predictions with the highest loss, found as the batches come."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F


class WorstErrors(Callback):
    """Keeps which images of a validation or test the model is wrong about, the worst first.

    The loss of an image is the cross entropy; of several labels the mean of the classes' binary
    cross entropies.

    Args:
        most: How many it keeps, at least 1.

    Attributes:
        found: (position in the stage, loss) of each, the highest loss first.
        num_images: How many images there were.
        num_wrong: How many of them the model is wrong about.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: list[tuple[int, float]] = []
        self.num_images = 0
        self.num_wrong = 0

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Look at the predictions of a batch."""
        self._look(pl_module, outputs["logits"], batch)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Look at the predictions of a batch."""
        self._look(pl_module, outputs["logits"], batch)

    def _look(self, model: Any, logits: Tensor, batch: Any) -> None:
        logits, targets = logits.float(), batch.targets
        if targets.ndim == 2:
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
            truth = targets.bool()
        else:
            losses = F.cross_entropy(logits, targets, reduction="none")
            truth = F.one_hot(targets, logits.shape[1]).bool()
        wrong = (model.decisions(model.probabilities(logits)) != truth).any(dim=1)
        self.num_images += len(targets)
        self.num_wrong += int(wrong.sum())
        # A loss that is not finite is as bad as one can be.
        losses = torch.nan_to_num(losses, nan=torch.inf)
        places = batch.indices[wrong.to(batch.indices.device)].tolist()
        self.found += zip(places, losses[wrong].tolist(), strict=True)
        self.found = sorted(self.found, key=lambda item: (-item[1], item[0]))[: self.most]
