"""Callbacks that run out of memory, as libraries do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

ERRORS: dict[str, Exception] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "old cuda": RuntimeError("CUDA error: out of memory"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB). Use PYTORCH_..."),
    "numpy": np._core._exceptions._ArrayMemoryError((9, 9), np.dtype("u1")),  # type: ignore[attr-defined]
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "worker": MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback"),
    "killed": RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
}


class RunOut(Callback):
    """Raises at the beginning of the second batch."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            raise ERRORS[self.kind]


def limit_memory(most: int) -> Any:
    """A forward hook that runs out of memory with more than so many images."""

    def hook(module: Any, inputs: Any) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    return hook
