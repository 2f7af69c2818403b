"""Checkpoints, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from classifier.errors import RunError
from classifier.files import replacing


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it: a kill leaves the old one.

    Lightning's own stages the file in the temporary folder, often another file system, where the
    move is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            RunError: the disk is full, or may not be written.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            # torch's zip writer reports a full disk as a RuntimeError.
            raise RunError(
                f"the checkpoint {target} could not be written ({error}). "
                "Free disk space; the checkpoints before it are intact"
            ) from error
