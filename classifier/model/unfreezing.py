"""Layers that begin to be trained in later epochs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from classifier.errors import ConfigError
from classifier.model.freezing import freeze_groups

log = logging.getLogger(__name__)

UNFREEZE = "model.init_args.unfreeze_schedule"
_STAGES = {"head": 0.0, "all": 1.0}  # what is trained of the encoder


def epochs_as_numbers(schedule: Mapping[Any, Any] | None) -> dict[Any, Any] | None:
    """A schedule with whole numbers for epochs: in a saved configuration keys are text.

    Args:
        schedule: As the configuration has it; what is no epoch stays, to be refused.
    """
    if schedule is None:
        return None
    return {int(key) if str(key).isdigit() else key: stage for key, stage in schedule.items()}


def check_unfreeze_schedule(
    schedule: Mapping[int, Any] | None, fraction_frozen: bool | float
) -> None:
    """Refuse a schedule that cannot be followed.

    Args:
        schedule: Epoch, from 0 -> what is trained from then on: `head`, `all`, or the fraction in
            [0, 1] of the encoder's layer groups, from the output side.
        fraction_frozen: `freeze_encoder`, which must be false beside a schedule.

    Raises:
        ConfigError: a key that is no epoch, an unknown stage, no stage for epoch 0, or one that
            freezes again.
    """
    if schedule is None:
        return
    if fraction_frozen:
        raise ConfigError(
            "model.init_args.freeze_encoder", "stands beside unfreeze_schedule",
            got=fraction_frozen, remedy="Write false: the schedule says what is frozen",
        )  # fmt: skip
    for epoch, stage in schedule.items():
        if type(epoch) is not int:
            raise ConfigError(
                f"{UNFREEZE}.{epoch}", "is no epoch, which is a whole number from 0 on", got=epoch,
                remedy="Write for example {0: head, 2: 0.25, 4: all}",
            )  # fmt: skip
        number = isinstance(stage, int | float) and not isinstance(stage, bool)
        if not (stage in _STAGES if isinstance(stage, str) else number and 0 <= stage <= 1):
            raise ConfigError(
                f"{UNFREEZE}.{epoch}", "must be head, all or a fraction in [0, 1]", got=stage,
                remedy="Write for example 0.25", name=str(stage), options=_STAGES,
            )  # fmt: skip
    if min(schedule, default=-1) != 0:
        raise ConfigError(
            UNFREEZE, "must say what is trained from epoch 0 on, and in no epoch before",
            got=dict(schedule), remedy="Write for example {0: head, 2: 0.25, 4: all}",
        )  # fmt: skip
    for before, after in pairwise(sorted(schedule)):
        if _fraction_trained(schedule[after]) < _fraction_trained(schedule[before]):
            raise ConfigError(
                f"{UNFREEZE}.{after}", f"trains less than epoch {before} does; what is trained "
                "once is not frozen again", got=schedule[after], remedy="Let the fractions grow",
            )  # fmt: skip


def num_frozen_in_epoch(schedule: Mapping[int, Any], epoch: int, num_groups: int) -> int:
    """How many of the first layer groups are frozen in an epoch.

    Args:
        schedule: As `check_unfreeze_schedule` lets it pass.
        epoch: From 0.
        num_groups: Layer groups of the encoder.
    """
    stage = schedule[max(start for start in schedule if start <= epoch)]
    return num_groups - math.floor(_fraction_trained(stage) * num_groups + 0.5)


def _fraction_trained(stage: str | float) -> float:
    return _STAGES[stage] if isinstance(stage, str) else float(stage)


class Unfreezing(Callback):
    """Follows `unfreeze_schedule`: switches requires_grad at the beginning of an epoch.

    The optimizer holds all parameters from the first epoch on, so that its groups, the schedule and
    checkpoints never change their shape. Optimizers leave out a parameter without a gradient: it
    has no state, and no weight decay moves it, until its epoch has come.

    Args:
        schedule: As `check_unfreeze_schedule` lets it pass.

    Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
        ACL 2018, section 3.3.
    """

    def __init__(self, schedule: dict[int, Any]) -> None:
        self.schedule = schedule
        self._last: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let DistributedDataParallel see every parameter: it follows those that it is born with.

        Raises:
            ConfigError: a strategy that cannot leave parameters out.
        """
        if stage != "fit" or trainer.world_size == 1:
            return
        strategy = trainer.strategy
        options = getattr(strategy, "_ddp_kwargs", {})
        if not isinstance(strategy, DDPStrategy) or not options.get("find_unused_parameters"):
            raise ConfigError(
                "trainer.strategy", "unfreeze_schedule trains more parameters in later epochs, "
                "which this strategy does not follow", got=type(strategy).__name__,
                remedy="Write strategy: ddp_find_unused_parameters_true",
            )  # fmt: skip
        pl_module.network.requires_grad_(True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze what this epoch freezes; a resumed training may begin in the middle of one."""
        self._follow(trainer, pl_module)
        epochs = trainer.max_epochs
        late = [epoch for epoch in self.schedule if epochs and 0 < epochs <= epoch]
        if late and trainer.is_global_zero:
            log.warning(
                "unfreeze_schedule: epoch %s never comes, the last one is %d",
                ", ".join(map(str, late)), (epochs or 0) - 1,
            )  # fmt: skip

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Free what this epoch begins to train."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: L.Trainer, pl_module: Any) -> None:
        num_groups = len(pl_module.network.layer_groups())
        number = num_frozen_in_epoch(self.schedule, trainer.current_epoch, num_groups)
        if number == self._last:
            return
        at_first = num_frozen_in_epoch(self.schedule, 0, num_groups)
        report = freeze_groups(pl_module.network, number)
        pl_module.train(pl_module.training)
        # What epoch 0 freezes was told when the network was built.
        if number != (at_first if self._last is None else self._last) and trainer.is_global_zero:
            log.info(
                "unfreeze_schedule: from epoch %d on, the %d. one, %s",
                trainer.current_epoch, trainer.current_epoch + 1, report,
            )  # fmt: skip
        self._last = number
