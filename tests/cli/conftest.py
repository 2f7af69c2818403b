"""A training that leaves precision, memory format and workers open, and what is measured then."""

from __future__ import annotations

from typing import Any

import pytest

from classifier.commands import speed_probe
from classifier.data import workers
from classifier.model.step_times import BF16, Setting, StepTimes


@pytest.fixture
def left_open(config: dict[str, Any]) -> dict[str, Any]:
    config["data"]["init_args"]["num_workers"] = "auto"
    return config


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """Settings in the order in which they were timed: bf16 is four times faster, on any machine."""
    asked: list[Setting] = []

    def seconds(self: StepTimes, setting: Setting, number: int) -> float:
        asked.append(setting)
        return (0.001 if setting.precision == BF16 else 0.004) * (
            1.2 if setting.channels_last else 1.0
        )

    monkeypatch.setattr(StepTimes, "seconds", seconds)
    monkeypatch.setattr(speed_probe, "_MIN_IMAGES", 1)
    monkeypatch.setattr(speed_probe, "_MAX_SHARE", 1e6)
    rates = {0: 10.0, 1: 95.0, 2: 100.0, 3: 60.0}
    monkeypatch.setattr(
        speed_probe, "training_rate", lambda stage, number, *_: rates.get(number, 1.0)
    )
    monkeypatch.setattr(workers, "usable_cores", lambda: 3)
    return asked
