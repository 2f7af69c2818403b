"""Callbacks that tests name by class path."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch.callbacks import Callback


class SendSignal(Callback):
    """Sends this process a signal in a training or validation batch."""

    def __init__(self, signum: int = signal.SIGTERM, step: int = 4, stage: str = "train") -> None:
        self.signum, self.step, self.stage = signum, step, stage

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.stage == "train" and trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.stage == "validation" and trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)


class KillWorker(Callback):
    """Kills a DataLoader worker, as the kernel does when memory runs out."""

    def on_train_batch_start(self, *_: Any) -> None:
        import multiprocessing

        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
