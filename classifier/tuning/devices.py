"""The GPUs of a sweep's pool, counted without touching one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from classifier.errors import ConfigError


def pool_of(devices: Sequence[int] | str | None) -> tuple[int, ...]:
    """The GPUs of `optuna.devices`, as the trainer would number them; empty without a pool.

    Raises:
        ConfigError: `auto` on a machine without any.
    """
    if not isinstance(devices, str):
        return tuple(devices or ())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([name for name in visible.split(",") if name.strip()])
    else:
        count = len(_listed_gpus())
    if not count:
        raise ConfigError(
            "optuna.devices", "no GPU was found", got="auto",
            remedy="Write null: trials then take what trainer.accelerator gives them",
        )  # fmt: skip
    return tuple(range(count))


def showing(device: int | None) -> dict[str, str]:
    """The variable by which a process sees one GPU only; none without a pool.

    Args:
        device: Its number among the GPUs that this process sees.
    """
    if device is None:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    return {"CUDA_VISIBLE_DEVICES": names[device] if device < len(names) else str(device)}


def _listed_gpus() -> Sequence[str]:
    """As nvidia-smi lists them; asking torch would start CUDA in the sweep's own process."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    done = subprocess.run([command, "-L"], capture_output=True, text=True, check=False, timeout=60)
    return [line for line in done.stdout.splitlines() if line.startswith("GPU")]
