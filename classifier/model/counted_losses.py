"""The losses of all stages: exact means over images, checked in every step, logged by stage."""

from __future__ import annotations

from math import isfinite
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from classifier.errors import RunError
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the train loss of all processes."""
        super().on_save_checkpoint(checkpoint)
        with self.train_loss.sync_context():
            for name, value in self.train_loss.metric_state.items():
                checkpoint["state_dict"][f"train_loss.{name}"] = value

    def on_train_start(self) -> None:
        """Let one process go on from a checkpoint's train_loss, which is that of all."""
        if not self.trainer.is_global_zero:
            self.train_loss.reset()

    def count_train_loss(self, loss: Tensor, batch: Any, batch_idx: int) -> None:
        """Count the loss of a training batch.

        Args:
            loss: A scalar.
            batch: (images, targets, ...), for the message.
            batch_idx: Number of the batch in its epoch.

        Raises:
            RunError: it is no finite number, in this process or in another.
        """
        value = loss.item()
        problem = None if isfinite(value) else self._not_finite(value, batch, batch_idx)
        if problem is not None and ends_range_test(self.trainer):
            return
        # All processes stop at the same step: one that went on would wait for the others.
        problem = first_problem(problem, loss.device)
        if problem is not None:
            raise RunError(problem)
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

    def _not_finite(self, loss: float, batch: Any, batch_idx: int) -> str:
        rates = sorted({group["lr"] for group in self.trainer.optimizers[0].param_groups})
        return (
            f"the loss became {loss} at step {self.global_step} "
            f"(epoch {self.current_epoch}, batch {batch_idx}{self._files_of(batch)}, "
            f"lr {', '.join(f'{rate:.3g}' for rate in rates)}). "
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


def first_problem(own: str | None, device: torch.device) -> str | None:
    """The problem of the first process that has one: the same on all of them.

    All processes must call it. It costs one exchange of a number, and nothing with one process.

    Args:
        own: What is wrong in this process; None when nothing is.
        device: Where the number is exchanged: that of the training.

    Returns:
        None where no process has a problem.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    found = torch.tensor(float(own is not None), device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    if not found.item():
        return None
    problems: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(problems, own)
    return next(problem for problem in problems if problem is not None)
