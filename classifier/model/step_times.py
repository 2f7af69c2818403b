"""How long a training step takes in each precision and memory format, and what its loss is."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classifier.model import tasks
from classifier.model.losses import classification_loss
from classifier.model.optimizers import build_optimizer

FLOAT32, BF16, FP16 = "32-true", "bf16-mixed", "16-mixed"
_DTYPES = {BF16: torch.bfloat16, FP16: torch.float16}


class Setting(NamedTuple):
    """How a step is computed.

    Args:
        precision: Of the trainer: 32-true, bf16-mixed or 16-mixed.
        channels_last: Memory format of weights and images.
    """

    precision: str
    channels_last: bool


class StepTimes:
    """Trains a copy of a model on one batch, again and again from the same start.

    Args:
        model: An ImageClassifier, built; it is not changed.
        device: On which it trains.
    """

    images: Tensor
    targets: Tensor

    def __init__(self, model: Any, device: torch.device) -> None:
        self.device = device
        self.model = copy.deepcopy(model).to(device).train()
        self.start = copy.deepcopy(self.model.state_dict())

    def take(self, images: Tensor, targets: Tensor) -> None:
        """Train on another batch from now on.

        Args:
            images: (N, 3, H, W), as the data module gives them.
            targets: Theirs.
        """
        self.images, self.targets = images.to(self.device), targets.to(self.device)

    def losses(self, setting: Setting, number: int) -> list[float]:
        """The losses of the first steps of a training.

        Args:
            setting: How they are computed.
            number: Of steps, at least 1.
        """
        step = self.step(setting)
        torch.manual_seed(0)  # dropout
        return [float(step()) for _ in range(number)]

    def seconds(self, setting: Setting, number: int) -> float:
        """The shortest time of a step among several, after one that counts for nothing.

        Args:
            setting: How they are computed.
            number: Of steps, at least 1.
        """
        step = self.step(setting)
        step()
        best = float("inf")
        for _ in range(number):
            self._wait()
            started = time.perf_counter()
            step()
            self._wait()
            best = min(best, time.perf_counter() - started)
        return best

    def step(self, setting: Setting) -> Any:
        """A function that does a step at every call, from the start of the training on."""
        model = self.model
        model.network.use_channels_last(setting.channels_last)
        model.load_state_dict(self.start)
        optimizer = build_optimizer(
            model.network, model.optimizer_config, fused=setting.precision != FP16
        )
        dtype = _DTYPES.get(setting.precision)
        scaler = torch.amp.GradScaler(self.device.type, enabled=setting.precision == FP16)

        def step() -> Tensor:
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                logits = model(self.images)
            loss = classification_loss(logits.float(), self.targets, model.task or tasks.MULTICLASS)
            torch.autograd.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return loss.detach()

        return step

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """How far losses are from others, as a share of these; infinite where one is no number.

    Args:
        losses: Of the first steps.
        expected: Of the same steps in another setting.
    """
    shares = [abs(a - b) / max(abs(b), 0.1) for a, b in zip(losses, expected, strict=True)]
    worst = max(shares)
    return worst if all(share == share for share in shares) else float("inf")
