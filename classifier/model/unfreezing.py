"""Layers that begin to be trained in later epochs."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from classifier.errors import ConfigError
from classifier.model.freezing import freeze_groups, hold_frozen_in_eval, num_frozen_in_epoch

log = logging.getLogger(__name__)


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
        groups = pl_module.network.layer_groups()
        number = num_frozen_in_epoch(self.schedule, trainer.current_epoch, len(groups))
        if number == self._last:
            return
        at_first = num_frozen_in_epoch(self.schedule, 0, len(groups))
        report = freeze_groups(pl_module.network, groups, number)
        pl_module.network.train(pl_module.training)
        hold_frozen_in_eval(pl_module.network)
        # What epoch 0 freezes was told when the network was built.
        if number != (at_first if self._last is None else self._last) and trainer.is_global_zero:
            log.info(
                "unfreeze_schedule: from epoch %d on, the %d. one, %s",
                trainer.current_epoch, trainer.current_epoch + 1, report,
            )  # fmt: skip
        self._last = number
