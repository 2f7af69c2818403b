"""Callbacks that tests name by class path."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from typing import Any

from lightning.pytorch.callbacks import Callback


class SendSignal(Callback):
    """Sends this process, of one rank, a signal in a training or validation batch."""

    def __init__(
        self, signum: int = signal.SIGTERM, step: int = 4, stage: str = "train", rank: int = 0
    ) -> None:
        self.signum, self.step, self.stage, self.rank = signum, step, stage, rank

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.stage == "train" and self._is_time(trainer):
            self._send()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.stage == "validation" and self._is_time(trainer):
            self._send()

    def _send(self) -> None:
        os.kill(os.getpid(), self.signum)

    def _is_time(self, trainer: Any) -> bool:
        return bool(trainer.global_step == self.step and trainer.global_rank == self.rank)


class SendGroupSignal(SendSignal):
    """Has another process send it to all processes of this group, as `timeout` does."""

    def _send(self) -> None:
        words = ["kill", f"-{int(self.signum)}", "--", f"-{os.getpgrp()}"]
        subprocess.run(words, check=True, start_new_session=True)


class BreakLoss(Callback):
    """Makes the loss of one rank not a number, or fails there, at one step."""

    def __init__(self, rank: int = 1, step: int = 1, error: str | None = None) -> None:
        self.rank, self.step, self.error = rank, step, error

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.error is not None:
                raise ValueError(self.error)
            pl_module.training_loss = lambda logits, _: logits.sum() * float("nan")


class KillWorker(Callback):
    """Kills a DataLoader worker before the first batch, as the kernel does when memory runs out."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 0:
            worker = multiprocessing.active_children()[0]
            os.kill(worker.pid or 0, signal.SIGKILL)
