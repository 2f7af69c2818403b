"""Where the time of a training epoch goes: Lightning's profiler, with every second counted once.

SimpleProfiler has the seconds of every action, those of the actions within it included. Here an
action gets only what is its own, so that the parts of an epoch add up to the epoch.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core import LightningModule
from lightning.pytorch.profilers import SimpleProfiler

DATA, DEVICE, FORWARD, BACKWARD = "waiting for data", "to the device", "forward, loss", "backward"
OPTIMIZER, CALLBACKS, VALIDATION = "optimizer", "metrics, other callbacks", "validation"
CHECKPOINTS, REST = "checkpoints", "Lightning's loops, the rest"
ORDER = (
    DATA, DEVICE, FORWARD, BACKWARD, OPTIMIZER, CALLBACKS, REST, VALIDATION, CHECKPOINTS,
)  # fmt: skip
# The hook or action of a strategy, a module or the trainer -> the part of the epoch.
_PARTS = {
    "train_dataloader_next": DATA, "batch_to_device": DEVICE, "on_before_batch_transfer": DEVICE,
    "transfer_batch_to_device": DEVICE, "on_after_batch_transfer": DEVICE,
    "training_step": FORWARD, "backward": BACKWARD, "optimizer_step": OPTIMIZER,
    "optimizer_zero_grad": OPTIMIZER, "lr_scheduler_step": OPTIMIZER,
    "save_checkpoint": CHECKPOINTS,
}  # fmt: skip
_WHOLE = (VALIDATION, CHECKPOINTS)  # all that happens within is theirs
# The first and the last of what Lightning calls in every validation.
_BEGINS, _ENDS = ".on_validation_model_eval", re.compile(r"\[Strategy\].*\.on_validation_end")


def part_of(action: str) -> str:
    """The part of an epoch that an action belongs to.

    Args:
        action: As Lightning's profilers name it: `[Strategy]<class>.<hook>`, or a word.
    """
    if action.startswith("[Callback]"):
        return CALLBACKS
    return _PARTS.get(action.rpartition(".")[2], REST)


class EpochProfile(SimpleProfiler):
    """The seconds of each part of the last epoch, written to a file at the end of the training.

    On a GPU every action waits until what it asked for is done: without it backward would get the
    time of the forward before. That costs what could have been prepared meanwhile.

    Args:
        file: JSON: part -> seconds.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)
        self.epochs: list[dict[str, float]] = []
        self._open: list[str] = []  # the parts of the actions that have begun and not ended
        self._since = 0.0
        self._ran = True  # the epoch that is open, if one is

    def start(self, action_name: str) -> None:
        """Give the time so far to what was open until now."""
        if action_name.endswith("on_train_epoch_start"):
            self._next_epoch()
        elif action_name.endswith("on_train_end"):
            self._end()
        elif action_name == "run_training_epoch":
            self._ran = True
        elif action_name.endswith(_BEGINS):
            self._push(VALIDATION)
        self._push(part_of(action_name))
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        """Give the time since to this action."""
        super().stop(action_name)
        self._pop()
        if _ENDS.fullmatch(action_name):
            self._pop()

    def _push(self, part: str) -> None:
        self._count()
        outer = self._open[-1] if self._open else ""
        self._open.append(outer if outer in _WHOLE and part != CHECKPOINTS else part)

    def _pop(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        """Add the time since the last look to the part that was open until now."""
        self._wait()
        now = time.perf_counter()
        if self.epochs:
            self.epochs[-1][self._open[-1] if self._open else REST] += now - self._since
        self._since = now

    def _wait(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _next_epoch(self) -> None:
        """At the first hook of an epoch; the others find it open."""
        if self._ran:
            self._count()
            self.epochs.append(defaultdict(float))
            self._ran = False

    def _end(self) -> None:
        """At the first hook behind the last epoch."""
        self._count()
        if self.epochs:
            self.file.write_text(json.dumps(self.epochs[-1]), encoding="utf-8")
        self.epochs = []


class StopAfter(Callback):
    """Ends a training early, of which a longer one was announced: what is chosen depends on that.

    Args:
        epochs: At least 1.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        if trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True
