"""Half precision where it is faster and says the same, found out on the first batch."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from classifier.inference.answers import decided
from classifier.inference.description import Description
from classifier.inference.route import Probabilities, Route
from classifier.preprocessing import Pixels

if TYPE_CHECKING:
    from classifier.inference.weights_route import WeightsRoute

# As many images make up for the trial.
FEWEST = 64
_FARTHEST = 1e-2
_FASTER = 1.2
# What torch says of processors that compute in bfloat16; emulated it would be slower.
_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


class Trial(NamedTuple):
    """What a batch came to in float32 and in half precision.

    Args:
        exact: Probabilities in float32.
        rough: In half precision.
        speed: How many times faster half precision was.
        difference: The largest one of two probabilities.
        is_same: Whether every image has the same classes by both.
    """

    exact: Probabilities
    rough: Probabilities
    speed: float
    difference: float
    is_same: bool

    @property
    def is_won(self) -> bool:
        """Whether half precision is to be used."""
        return self.is_same and self.difference <= _FARTHEST and self.speed >= _FASTER

    def told(self, name: str) -> str:
        """The outcome in a line of the log.

        Args:
            name: Of half precision.
        """
        outcome = f"{name}: {self.speed:.1f} x float32, probabilities within {self.difference:.2g}"
        if self.is_won:
            return outcome
        return f"{outcome}{'' if self.is_same else ', other labels'}: float32 is used"


def half_of(route: Any) -> WeightsRoute | None:
    """The same network in half precision; None where the device has no units for it.

    Args:
        route: A network in torch that answers in float32; of any other route None.
    """
    from classifier.inference.weights_route import WeightsRoute  # imports torch

    if not isinstance(route, WeightsRoute) or route.precision != "fp32":
        return None
    precision = _half_on(route.device.type)
    if precision is None:
        return None
    half = copy.copy(route)
    half.precision = precision
    return half


def _half_on(device: str) -> str | None:
    """The kind of half precision that a device is fast in; None where it is in none."""
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    able = torch.cpu.get_capabilities() if device == "cpu" else {}
    return "bf16" if any(able.get(unit) for unit in _UNITS) else None


def try_half(full: Route, half: Route, images: Pixels, description: Description) -> Trial:
    """Send a batch through a model in both precisions.

    Args:
        full: Answers in float32.
        half: Answers in half precision.
        images: (N, height, width, 3) uint8; N at least 2.
        description: Decides by the probabilities.
    """
    exact, seconds = _timed(full, images)
    rough, seconds_of_half = _timed(half, images)
    same = decided(exact, description) == decided(rough, description)
    difference = np.abs(exact - rough).max()
    return Trial(
        exact, rough, seconds / max(seconds_of_half, 1e-9), float(difference), bool(same.all())
    )


def _timed(route: Route, images: Pixels) -> tuple[Probabilities, float]:
    """Answers, and the seconds that they took, but for what a first call prepares."""
    route.probabilities(images[:1])
    started = time.perf_counter()
    answers = route.probabilities(images)
    return answers, time.perf_counter() - started
