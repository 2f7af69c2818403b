"""StepTrace: what every step of a training saw and came to, as hashes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric

from classifier.errors import Interrupted

TRACE = "trace_{}.jsonl"  # by the process's number


class StepTrace(Callback):
    """Writes a line of hashes for the beginning and for every batch, and ends the training early.

    Hashes are of bits: two traces are equal only where the trainings are.

    Args:
        folder: An existing folder, for trace_<process>.jsonl.
        num_steps: Optimizer steps in all, at least 1, after which the training ends.
        interrupt_after: Optimizer steps after which this process sends itself SIGTERM, as an
            operator would; null for never.
    """

    def __init__(self, folder: str, num_steps: int, interrupt_after: int | None = None) -> None:
        self.folder = Path(folder)
        self.num_steps = num_steps
        self.interrupt_after = interrupt_after
        self._batch: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the weights that the training begins with, or goes on with."""
        self._write(trainer, {"step": trainer.global_step, **_weights(trainer, pl_module)})

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the images before the step: it may change them in place."""
        self._batch = {"epoch": trainer.current_epoch, "batch": batch_idx, **_content(batch)}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss and the weights.

        Raises:
            Interrupted: enough steps were made.
        """
        step = trainer.global_step
        facts = {"step": step, **self._batch, "loss": _loss(outputs)}
        self._write(trainer, {**facts, **_weights(trainer, pl_module)})
        if step >= self.num_steps:
            raise Interrupted(signal.SIGTERM)
        if step == self.interrupt_after and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)

    def _write(self, trainer: L.Trainer, facts: dict[str, Any]) -> None:
        file = self.folder / TRACE.format(trainer.global_rank)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")


def digest(tensor: Tensor) -> str:
    """32 hexadecimal digits, equal for tensors of equal shape, type and bits."""
    whole = tensor.detach().cpu().contiguous()
    found = hashlib.blake2b(repr((whole.dtype, tuple(whole.shape))).encode(), digest_size=16)
    found.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _weights(trainer: Any, module: L.LightningModule) -> dict[str, dict[str, str]]:
    """Parameters and buffers by name, and their averages where a callback keeps some."""
    found = {"weights": _digests(module)}
    for callback in trainer.callbacks:
        average = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and average is not None:
            found["averages"] = _digests(average)
    return found


def _digests(module: torch.nn.Module) -> dict[str, str]:
    """Of all but the sums of metrics, which are no part of what is trained."""
    sums = tuple(f"{name}." for name, inner in module.named_modules() if isinstance(inner, Metric))
    return {
        name: digest(value)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and not name.startswith(sums)
    }


def _content(batch: Any) -> dict[str, Any]:
    """The positions of a batch's images, and a hash of each; of any other batch of its tensors."""
    images, indices = getattr(batch, "images", None), getattr(batch, "indices", None)
    if isinstance(images, Tensor) and isinstance(indices, Tensor):
        return {"indices": indices.tolist(), "pixels": [digest(image) for image in images]}
    pixels: list[str] = []
    apply_to_collection(batch, Tensor, lambda tensor: pixels.append(digest(tensor)))
    return {"pixels": pixels}


def _loss(outputs: Any) -> str | None:
    """Exact, as a hexadecimal number; None where a step gives none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss).hex() if isinstance(loss, Tensor) else None
