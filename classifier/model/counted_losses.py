"""The losses of all stages: exact means over images, checked in every step, logged by stage."""

from __future__ import annotations

from math import isfinite
from typing import Any

from torch import Tensor

from classifier.errors import RunError
from classifier.model.agreement import MeanLoss, first_problem
from classifier.model.deferred import DeferredNetwork
from classifier.model.parameter_groups import OPTIMIZER
from classifier.model.range_test import ends_range_test

_SHOWN_EVERY = 20  # batches; the progress bar is drawn as rarely


class CountedLosses(DeferredNetwork):
    """Counts the loss of every batch, and logs train_loss, validation_loss and test_loss."""

    def __init__(self, task: str | None, thresholds: Any) -> None:
        super().__init__(task, thresholds)
        # Kept by this class and not by Lightning, whose running means are lost in a resume.
        self.train_loss = MeanLoss()
        self.train_loss.persistent(True)
        self.validation_loss = MeanLoss()
        self.test_loss = MeanLoss()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the checkpoint usable on its own, and the train loss of all processes."""
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
        places = getattr(batch, "indices", None)
        if describe is None or places is None:
            return ""
        return f" with {', '.join(describe('train', place) for place in places[:3].tolist())}, ..."
