"""Counting without waiting: the same numbers, and nothing in a step that waits for a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torchmetrics.classification import MulticlassConfusionMatrix

from classifier.callbacks import counting
from classifier.callbacks.counting import bincount, without_waiting
from classifier.entry import main
from classifier.model import mixing

# What makes Python, or torch itself, wait for a GPU: a number, a truth or a shape is read back.
WAITS = {
    "item", "__float__", "__int__", "__bool__", "__index__", "tolist", "cpu",
    "numpy", "nonzero", "bincount", "unique", "unique_consecutive", "masked_select", "equal",
    "argwhere", "repeat_interleave", "allclose",
}  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "WAITING", ("cpu",))


class Waiting(TorchFunctionMode):
    """Counts the calls that would let a GPU wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        masks = [a for a in args[1:2] if isinstance(a, torch.Tensor) and a.dtype == torch.bool]
        if name in WAITS or (name in ("__getitem__", "__setitem__") and masks):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def calls_of(content: dict[str, Any], save: Callable[..., str], steps: int) -> Counter[str]:
    content["trainer"] |= {"limit_train_batches": steps, "max_epochs": 1, "log_every_n_steps": 999}
    waiting = Waiting()
    with waiting:
        main(["--config", save(content)])
    return waiting.calls


@pytest.mark.parametrize("number", [0, 1, 500])
def test_counts_are_those_of_torch(number: int) -> None:
    numbers = torch.randint(0, 9, (number,))
    assert bincount(numbers, minlength=12).equal(torch.bincount(numbers, minlength=12))
    assert bincount(numbers).equal(torch.bincount(numbers))


def test_confusion_matrix_is_the_same_without_torchs_bincount(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    preds, targets = torch.randint(0, 5, (2, 300)).unbind()
    metric = MulticlassConfusionMatrix(5, validate_args=False)
    expected = metric(preds, targets)
    with Waiting() as waiting, without_waiting(preds.device):
        found = metric(preds, targets)
    assert found.equal(expected)
    assert waiting.calls["bincount"] == 0


def test_torchmetrics_is_left_alone_on_a_cpu() -> None:
    with Waiting() as waiting, without_waiting(torch.device("cpu")):
        MulticlassConfusionMatrix(5, validate_args=False)(torch.arange(5), torch.arange(5))
    assert waiting.calls["bincount"] == 1


@pytest.mark.parametrize("more", [{}, {"mixup_config": {"mixup_alpha": 0.2}}])
def test_step_of_a_training_reads_one_number_back_which_is_its_loss(
    more: dict[str, Any],
    config: dict[str, Any],
    save: Callable[..., str],
    as_on_a_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mixing, "_beta", lambda alpha: 0.3)  # is drawn on the CPU, everywhere
    arguments = config["data"]["init_args"]
    arguments["batch_size"] = 2
    config["model"]["init_args"] |= more
    few, many = (calls_of(config, save, steps) for steps in (2, 6))
    # The CPU's own check of the loss; a GPU's number is on its way meanwhile (model/finite.py).
    assert many - few == {"tolist": 4}
