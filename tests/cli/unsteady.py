"""Things that draw random numbers which no seed decides, named by class path in tests."""

from __future__ import annotations

import os
from typing import Any

import albumentations
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class UnseededNoise(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Changes a pixel by what the operating system draws."""

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def apply(self, img: Any, **params: Any) -> Any:
        changed = img.copy()
        changed[0, 0] = np.frombuffer(os.urandom(3), dtype=np.uint8)
        return changed


class UnseededStart(nn.Module):
    """A linear network with initial weights that the operating system draws."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.steady = nn.Linear(3, 4)
        self.head = nn.Linear(4, num_classes)
        with torch.no_grad():
            self.head.bias[0] = int.from_bytes(os.urandom(4)) / 2**32

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.steady(images.mean(dim=(2, 3))))
        return logits


class ForgetfulNudge(Callback):
    """Changes a weight by the number of batches that this process has seen: lost in a resume."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen += 1
        with torch.no_grad():
            list(pl_module.parameters())[-1][0] += 1e-3 * self.seen


class UnseededNudge(Callback):
    """Changes a weight of the last layer in the third step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            with torch.no_grad():
                list(pl_module.parameters())[-1][0] += int.from_bytes(os.urandom(4)) / 2**32
