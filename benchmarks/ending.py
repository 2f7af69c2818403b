"""A callback by which a training of which only the beginning is wanted ends at once."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback


class EndAtOnce(Callback):
    """Ends a training after its first step, as one that is complete.

    Its plan stays as long as it is: trainer.max_time or max_steps would make it a short one.
    """

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Let this step be the last one."""
        trainer.should_stop = True
