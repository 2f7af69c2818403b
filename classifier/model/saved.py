"""What a checkpoint says of its model besides its weights. Imports neither torch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What a checkpoint holds besides Lightning's own keys, so that it can be used on its own.
CHECKPOINT_KEY = "image_classifier"


@dataclass(frozen=True)
class Calibration:
    """What the validation images taught a model after its training; as it stands, nothing.

    Args:
        temperature: Logits are divided by it; above 0.
        thresholds: In multilabel a number in (0, 1) for every class; of two classes one number,
            for the class `positive`. None leaves the decisions to the model's own rule.
        positive: Of two classes the index of the one that the threshold is for; else None.
    """

    temperature: float = 1.0
    thresholds: list[float] | None = None
    positive: int | None = None

    @classmethod
    def read(cls, saved: Mapping[str, Any] | None) -> Calibration:
        """What a checkpoint says.

        Args:
            saved: As `plain` gave it; None in checkpoints that know of no calibration.
        """
        return cls(**saved) if saved else cls()

    def plain(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return asdict(self)
