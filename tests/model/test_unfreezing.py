from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from timm.optim import list_optimizers
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model.freezing import num_frozen_groups
from classifier.model.optimizers import build_optimizer
from classifier.model.unfreezing import (
    Unfreezing,
    check_unfreeze_schedule,
    epochs_as_numbers,
    num_frozen_in_epoch,
)

SCHEDULE = {0: "head", 1: 0.5, 3: "all"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start"),
]


def built(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    options = {"unfreeze_schedule": SCHEDULE, **options}
    model = ImageClassifier("timm/test_resnet", pretrained=False, num_classes=3, **options)
    model.build()
    return model


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(8) % 3), batch_size=4)


def trainer(max_epochs: int = 5, *callbacks: Callback, **arguments: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        max_epochs=max_epochs, accelerator="cpu", callbacks=list(callbacks),
        **{"enable_checkpointing": False, **quiet, **arguments},
    )  # fmt: skip


class Watcher(Callback):
    """Keeps weights, and what has optimizer state, at the end of every epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.with_state: list[set[str]] = []
        self.trained: list[set[str]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(pl_module)
        names = {id(p): n for n, p in pl_module.named_parameters()}
        state = trainer.optimizers[0].state
        self.with_state.append({names[id(p)] for p in state})
        self.trained.append({n for n, p in pl_module.named_parameters() if p.requires_grad})

    def _keep(self, module: L.LightningModule) -> None:
        self.weights.append({k: v.clone() for k, v in module.state_dict().items()})


def frozen_in(model: ImageClassifier, epoch: int) -> set[str]:
    assert model.network is not None
    groups = model.network.layer_groups()
    number = num_frozen_in_epoch(SCHEDULE, epoch, len(groups))
    return {f"network.{name}" for group in groups[:number] for name in group.parameters}


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
def test_stage_counts_from_the_output(groups: int, fraction: float, epoch: int) -> None:
    assert num_frozen_in_epoch({0: "head"}, epoch, groups) == groups
    assert num_frozen_in_epoch({0: "all"}, epoch, groups) == 0
    frozen = num_frozen_in_epoch({0: fraction}, epoch, groups)
    assert groups - frozen == num_frozen_groups(fraction, groups)


def test_stage_holds_until_the_next_one() -> None:
    found = [num_frozen_in_epoch({2: 0.5, 0: "head", 4: "all"}, epoch, 8) for epoch in range(6)]
    assert found == [8, 8, 4, 4, 0, 0]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, "must say what is trained from epoch 0 on"),
        ({-1: "head", 0: "all"}, "in no epoch before"),
        ({0: "head", 1.5: "all"}, "unfreeze_schedule.1.5: is no epoch"),
        ({"a": "head"}, "unfreeze_schedule.a: is no epoch"),
        ({0: True}, "must be head, all or a fraction"),
        ({0: 1.5}, "must be head, all or a fraction"),
        ({0: "al"}, "Did you mean 'all'"),
        ({0: "all", 1: "head"}, "is not frozen again"),
    ],
)
def test_wrong_schedule_is_refused(schedule: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_unfreeze_schedule(schedule, False)


def test_epochs_of_a_saved_configuration_are_numbers_again() -> None:
    assert epochs_as_numbers({"0": "head", 2: "all"}) == {0: "head", 2: "all"}
    assert epochs_as_numbers({1.5: "all", -1: "head"}) == {1.5: "all", -1: "head"}
    assert epochs_as_numbers(None) is None


def test_schedule_is_refused_beside_freeze_encoder() -> None:
    with pytest.raises(ConfigError, match="freeze_encoder: stands beside unfreeze_schedule"):
        ImageClassifier("timm/test_resnet", freeze_encoder=0.5, unfreeze_schedule={0: "all"})


def test_parameters_wait_for_their_epoch_and_begin_without_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model = built(optimizer_config={"name": "AdamW", "lr": 0.01, "weight_decay": 0.5})
    watcher = Watcher()
    trainer(4, watcher).fit(model, batches(), batches())
    parameters = {name for name, _ in model.named_parameters()}
    for epoch in range(4):
        before, after = watcher.weights[epoch], watcher.weights[epoch + 1]
        frozen = frozen_in(model, epoch)
        assert watcher.trained[epoch] == watcher.with_state[epoch] == parameters - frozen
        for name in parameters:
            assert torch.equal(before[name], after[name]) == (name in frozen), (epoch, name)
        norms = [name for name in before if name.endswith("running_mean")]
        for name in norms:
            weight = name.replace("running_mean", "weight")
            assert torch.equal(before[name], after[name]) == (weight in frozen), (epoch, name)
    lines = [r.getMessage() for r in caplog.records if "unfreeze_schedule" in r.getMessage()]
    assert [line.partition(", froze")[0] for line in lines] == [
        "unfreeze_schedule: from epoch 1 on, the 2. one",
        "unfreeze_schedule: from epoch 3 on, the 4. one",
    ]
    assert "froze 0 of" in lines[1]


def test_first_step_of_a_freed_parameter_is_that_of_a_new_optimizer() -> None:
    model = built(optimizer_config={"name": "AdamW", "lr": 0.01, "weight_decay": 0.0})
    assert model.network is not None
    name = model.network.layer_groups()[0].parameters[0]

    class Steps(Callback):
        sizes: list[float]

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.sizes = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.before = model.network.get_parameter(name).detach().clone()  # type: ignore[union-attr]

        def on_train_batch_end(self, *_: Any) -> None:
            now = model.network.get_parameter(name).detach()  # type: ignore[union-attr]
            self.sizes.append((now - self.before).abs().max().item())

    steps = Steps()
    trainer(4, steps).fit(model, batches(), batches())
    assert steps.sizes[:6] == [0.0] * 6
    # Adam's first step is lr in size, whatever the gradient; with stale moments it is not.
    assert steps.sizes[6] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["momentum", "adamw", "lamb", "lion", "adabelief", "nadamw", "lars"]
)
def test_timm_optimizers_leave_parameters_without_gradient_alone(name: str) -> None:
    assert name in list_optimizers()
    frozen = nn.Linear(3, 3).requires_grad_(False)
    module = nn.Sequential(frozen, nn.Linear(3, 3))
    before = frozen.weight.clone()
    config = {"name": name, "lr": 0.1, "weight_decay": 0.5}
    optimizer = build_optimizer(module, config, frozen_too=True)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert torch.equal(frozen.weight, before)
    assert frozen.weight not in optimizer.state


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_resumed_training_equals_an_uninterrupted_one(epoch: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "optimizer_config": {"name": "AdamW", "lr": 0.01, "layer_decay": 0.7},
        "scheduler_config": {"name": "cosine", "warmup_epochs": 1},
    }
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = built(**options)
    trainer(5, saver, enable_checkpointing=True).fit(whole, batches(), batches())
    resumed = built(**options)
    half = tmp_path / f"epoch={epoch}.ckpt"
    trainer(5).fit(resumed, batches(), batches(), ckpt_path=half, weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_epoch_that_never_comes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    trainer(2).fit(built(), batches(), batches())
    assert "unfreeze_schedule: epoch 3 never comes, the last one is 1" in caplog.text


@pytest.mark.parametrize("strategy", [DDPStrategy(), FSDPStrategy()])
def test_schedule_is_refused_by_a_strategy_that_cannot_follow_it(strategy: Any) -> None:
    several: Any = SimpleNamespace(world_size=2, strategy=strategy)
    with pytest.raises(ConfigError, match="Write strategy: ddp_find_unused_parameters_true"):
        Unfreezing(SCHEDULE).setup(several, built(), "fit")


class Agreement(Callback):
    """Fails where two processes hold different weights."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        own = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        both = trainer.strategy.all_gather(own)
        assert trainer.world_size == 2 and torch.equal(both[0], both[1])


def agree() -> None:
    """Train in two processes, forked: only from a process that has not computed yet."""
    model = built(optimizer_config={"name": "AdamW", "lr": 0.01})
    assert model.network is not None
    freed_last = model.network.get_parameter(model.network.layer_groups()[0].parameters[0])
    before = freed_last.clone()
    strategy = "ddp_fork_find_unused_parameters_true"
    trainer(4, Agreement(), strategy=strategy, devices=2).fit(model, batches(), batches())
    assert not torch.equal(before, freed_last)


@pytest.mark.long
def test_two_processes_agree_on_weights_that_are_freed_later() -> None:
    code = "from tests.model.test_unfreezing import agree; agree()"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, timeout=120)
    assert done.returncode == 0
