"""Losses that are no numbers: found at once on a CPU, a few steps later where a device is not to wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier.entry import main
from classifier.errors import RunError
from classifier.model import finite
from classifier.model.finite import FiniteLosses


def answers(losses: list[float]) -> list[str | None]:
    looking, found = FiniteLosses(), []
    for step, loss in enumerate(losses):
        found.append(looking.add(torch.tensor(loss), partial("{1} at {0}".format, step)))
    return [*found, looking.drain()]


def test_bad_loss_is_told_in_its_own_step_on_a_cpu() -> None:
    assert answers([1.0, math.nan, 2.0]) == [None, "nan at 1", None, None]
    assert answers([1.0, -math.inf]) == [None, "-inf at 1", None]


def test_bad_loss_is_told_later_on_a_device_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(finite.LAG, "cpu", 2)
    assert answers([1.0, math.nan, 2.0, 3.0, 4.0]) == [None, None, None, "nan at 1", None, None]
    assert answers([1.0, math.inf]) == [None, None, "inf at 1"]


def test_bad_loss_that_does_not_matter_is_passed_over() -> None:
    assert FiniteLosses().add(torch.tensor(math.nan), lambda value: None) is None


def test_training_whose_losses_are_read_late_stops_with_the_step_that_was_bad(
    config: dict[str, Any],
    save: Callable[[Any], str],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(finite.LAG, "cpu", 2)
    config["model"]["init_args"]["optimizer_config"] = {"name": "SGD", "lr": 1e30}
    config["data"]["init_args"] |= {"val_fraction": 0, "batch_size": 4}
    with pytest.raises(RunError, match=r"the loss became (nan|inf) at step [12] .*lr 1e\+30"):
        main(["--config", save(config)])
    assert not list(workplace.glob("runs/*/*/checkpoints/*"))  # of broken weights


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bad_loss_on_a_gpu_is_found_by_the_end() -> None:
    looking = FiniteLosses()
    found = [looking.add(torch.tensor(math.nan if step == 3 else 1.0, device="cuda"), str)
             for step in range(5)]  # fmt: skip
    assert found == [None] * 5
    assert looking.drain() == "nan"
