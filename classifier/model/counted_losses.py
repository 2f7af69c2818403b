"""The losses of all stages: exact means over images, checked in every step, logged by stage."""

from __future__ import annotations

from math import isfinite
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from classifier.errors import RunError
from classifier.model.finite import FiniteLosses
from classifier.model.parameter_groups import OPTIMIZER
from classifier.model.range_test import ends_range_test

_SHOWN_EVERY = 20  # batches; the progress bar is drawn as rarely


class MeanLoss(Metric):
    """The mean of a loss over images, over all batches and processes.

    torchmetrics' MeanMetric waits for the device in every step to look for numbers that are none,
    which the steps do themselves, and forgets the weights when told not to look.
    Its states have the same names here, as checkpoints hold them.
    """

    full_state_update = False
    mean_value: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean_value", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, loss: Tensor, num_images: int) -> None:
        """Count a batch.

        Args:
            loss: Its mean, a scalar.
            num_images: How many it is the mean of.
        """
        self.__dict__["_update_count"] += 1
        self.__dict__["_computed"] = None
        self.mean_value.add_(loss.float(), alpha=num_images)
        self.weight.add_(num_images)

    # An update without what torchmetrics does around it, which costs more than the update.
    count = update

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return self.mean_value / self.weight


class CountedLosses(L.LightningModule):
    """Counts the loss of every batch, and logs train_loss, validation_loss and test_loss."""

    def __init__(self) -> None:
        super().__init__()
        # Kept by this class and not by Lightning, whose running means are lost in a resume.
        self.train_loss = MeanLoss()
        self.train_loss.persistent(True)
        self.validation_loss = MeanLoss()
        self.test_loss = MeanLoss()
        self._finite = FiniteLosses()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the train loss of all processes."""
        super().on_save_checkpoint(checkpoint)
        _stop(self._finite.drain())
        with self.train_loss.sync_context():
            for name, value in self.train_loss.metric_state.items():
                checkpoint["state_dict"][f"train_loss.{name}"] = value

    def on_train_start(self) -> None:
        """Let one process go on from a checkpoint's train_loss, which is that of all."""
        self._finite = FiniteLosses()  # what a range test before left behind does not count
        if not self.trainer.is_global_zero:
            self.train_loss.reset()

    def count_train_loss(self, loss: Tensor, batch: Any, batch_idx: int) -> None:
        """Count the loss of a training batch.

        Args:
            loss: A scalar.
            batch: (images, targets, ...), for the message.
            batch_idx: Number of the batch in its epoch.

        Raises:
            RunError: it, or on a GPU that of a few steps before, is no finite number, in this
                process or in another.
        """
        where = self._place(batch, batch_idx)

        def describe(value: float) -> str | None:
            return None if ends_range_test(self.trainer) else self._not_finite(value, *where)

        # All processes stop at the same step: one that went on would wait for the others.
        _stop(self._finite.add(loss, describe))
        self.train_loss.count(loss, len(batch[1]))
        if self._shows(batch_idx):
            self.log("train_loss_step", loss, on_step=True, on_epoch=False, prog_bar=True)

    def _shows(self, batch_idx: int) -> bool:
        """Whether a logger or the progress bar looks at this step: a call of log costs 0.4 ms."""
        trainer: Any = self.trainer
        logs: bool = trainer._logger_connector.should_update_logs or bool(trainer.fast_dev_run)
        return logs or (batch_idx + 1) % _SHOWN_EVERY == 0

    def on_train_epoch_end(self) -> None:
        """Log train_loss: the mean over the epoch's images."""
        _stop(self._finite.drain())
        self.log("train_loss", self.train_loss.compute(), sync_dist=True)
        self.train_loss.reset()

    def on_validation_epoch_start(self) -> None:
        """Forget the validation before."""
        self.validation_loss.reset()

    def on_validation_epoch_end(self) -> None:
        """Log validation_loss: the mean over the images."""
        self._log_loss("validation", self.validation_loss)

    def on_test_epoch_start(self) -> None:
        """Forget the test before."""
        self.test_loss.reset()

    def on_test_epoch_end(self) -> None:
        """Log test_loss: the mean over the images."""
        self._log_loss("test", self.test_loss)

    def _log_loss(self, stage: str, mean: MeanLoss) -> None:
        loss = mean.compute()
        # Only here, where all processes have the same number.
        if not isfinite(loss.item()):
            raise RunError(
                f"the {stage} loss became {loss.item()}: the weights are broken. "
                "Use an earlier checkpoint, and train with a lower learning rate"
            )
        self.log(f"{stage}_loss", loss, prog_bar=True, sync_dist=True)

    def _place(self, batch: Any, batch_idx: int) -> tuple[int, int, int, list[Any], Any]:
        """Where a training stands: step, epoch, batch, learning rates, and what is in the batch."""
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        return self.global_step, self.current_epoch, batch_idx, rates, batch

    def _not_finite(
        self, loss: float, step: int, epoch: int, batch_idx: int, rates: list[Any], batch: Any
    ) -> str:
        shown = ", ".join(f"{rate:.3g}" for rate in sorted({float(rate) for rate in rates}))
        return (
            f"the loss became {loss} at step {step} "
            f"(epoch {epoch}, batch {batch_idx}{self._files_of(batch)}, lr {shown}). "
            f"Lower {OPTIMIZER}.lr, set trainer.gradient_clip_val, or use trainer.precision: 32"
        )

    def _files_of(self, batch: Any) -> str:
        """The first files of a batch, where the data module knows them."""
        describe = getattr(getattr(self.trainer, "datamodule", None), "describe", None)
        positions = getattr(batch, "indices", None)
        if describe is None or positions is None:
            return ""
        first = [describe("train", position) for position in positions[:3].tolist()]
        return f" with {', '.join(first)}, ..."


def _stop(problem: str | None) -> None:
    if problem is not None:
        raise RunError(problem)
