"""What a classifier makes of its logits: calibrated, as probabilities, and as decisions."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from classifier.model import tasks
from classifier.model.per_class import shown_weights
from classifier.model.saved import Calibration as Calibration


class Answers(L.LightningModule):
    """Gives logits their meaning, in one place for every command.

    Steps that evaluate or predict work on `calibrated` logits, so that losses, metrics and
    predictions agree.
    """

    task: str | None
    class_names: list[str] | None

    def __init__(self) -> None:
        super().__init__()
        self.calibration = Calibration()
        # Of multilabel, in the order of the classes, once these are known.
        self._own_thresholds: list[float] | None = None

    @property
    def thresholds(self) -> list[float] | None:
        """The probability from which on an image has a class, for every class; multilabel only."""
        if self._own_thresholds is None:
            return None
        return self.calibration.thresholds or self._own_thresholds

    @property
    def by_threshold(self) -> bool:
        """Whether something other than the highest probability decides."""
        return self.thresholds is not None or self.calibration.positive is not None

    def described_calibration(self) -> str:
        """What the validation images taught, in words; empty where they taught nothing."""
        found, parts = self.calibration, []
        if found.temperature != 1.0:
            parts.append(f"temperature {found.temperature:.4g}")
        if found.thresholds is not None:
            names = self.class_names or []
            tuned = names if found.positive is None else [names[found.positive]]
            parts.append(f"thresholds {shown_weights(torch.tensor(found.thresholds), tuned)}")
        return "; ".join(parts)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits by which probabilities are as sure as they are right; the same ones in training.

        Args:
            logits: (N, num_classes), as `forward` gives them.
        """
        temperature = self.calibration.temperature
        return logits if temperature == 1.0 else logits.float() / temperature

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (N, num_classes) in float32; in multilabel they do not add up to 1.

        Args:
            logits: (N, num_classes), as `calibrated` gives them.
        """
        values = logits.float()
        return values.sigmoid() if self.task == tasks.MULTILABEL else values.softmax(dim=1)

    def decisions(self, probabilities: Tensor) -> Tensor:
        """Which classes an image has, (N, num_classes) bool; in multiclass always one.

        Args:
            probabilities: (N, num_classes).
        """
        if self.thresholds is not None:
            limits = torch.tensor(self.thresholds, dtype=torch.float32, device=probabilities.device)
            return probabilities >= limits
        positive, tuned = self.calibration.positive, self.calibration.thresholds
        if positive is None or tuned is None:
            chosen = probabilities.argmax(dim=1, keepdim=True)
        else:
            reached = probabilities[:, positive, None] >= tuned[0]
            chosen = torch.where(reached, positive, 1 - positive)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, chosen, True)
