"""What a training imports, imported by the server that trials are forked from.

It computes nothing: a forked child of a process that ran a torch operation hangs in OpenMP, and one
of a process that touched a GPU cannot use it. A test holds it to a single thread.
"""

from __future__ import annotations

import atexit
import gc
import os
from importlib import import_module

from classifier.cli import ClassifierCLI

_MODULES = (
    "torch._dynamo",  # torch.optim imports it at the first step
    "torch.utils.serialization",
    "attrs",
    "fsspec.implementations.chained",
    "classifier.execution",
    "classifier.commands.train",
    "classifier.commands.check",
    "classifier.model.timm_encoder",
    "classifier.model.transformers_encoder",
    "timm.optim",
    "tqdm",
)


class _Parser(ClassifierCLI):
    """Parses a configuration, and has no effect on anything but jsonargparse's memory."""

    def _set_seed(self) -> None:
        """No random number generator is touched."""


def _read_signatures() -> None:
    """Let jsonargparse read the classes' sources once: it remembers what it found."""
    model = {"class_path": "classifier.ImageClassifier", "init_args": {"model_name": "timm/x"}}
    data = {"class_path": "classifier.ImageDataModule", "init_args": {"dataset_classes": {}}}
    _Parser({"model": model, "data": data, "trainer": {}})


def _leave_quietly() -> None:
    """Objects that are kept from the garbage collection look like leaks to a library's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


for _name in _MODULES:
    import_module(_name)
_read_signatures()
# What is here stays: children need not look through it, nor copy the memory that it lies in.
gc.collect()
gc.freeze()
atexit.register(_leave_quietly)
