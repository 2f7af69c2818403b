"""How many processes decode: a guess without measuring, and how fast a training is with some."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from classifier.cores import usable_cores
from classifier.data.loading import make_loader

_GUESS = 4  # more pay on machines whose accelerator waits for images, which is measured


def guessed_workers() -> int:
    """Where nothing is measured: at most four, and a core is left to the training itself."""
    return min(_GUESS, usable_cores() - 1)


def workers_to_try(seconds_decoding: float, seconds_training: float, on_cpu: bool) -> list[int]:
    """Numbers of workers of which one is likely the best.

    Args:
        seconds_decoding: Of one image, in one process.
        seconds_training: Of one image.
        on_cpu: Whether training and decoding share the cores.
    """
    cores = usable_cores()
    needed = math.ceil(seconds_decoding / max(seconds_training, 1e-9))
    wanted = {needed, needed + 1, cores - 1, cores} | ({0, 1} if on_cpu else {2 * needed})
    return sorted({min(max(number, 0), cores) for number in wanted})


def training_rate(
    stage: Any, num_workers: int, batch_size: int, step: Callable[[], Any], seconds: float
) -> float:
    """Images that a training gets through in a second.

    Args:
        stage: Of the training.
        num_workers: Processes that decode.
        batch_size: Images of a step.
        step: Does the arithmetic of one.
        seconds: How long it may go on, beside the workers' start.
    """
    loader = make_loader(
        stage, batch_size=batch_size, num_workers=num_workers, seed=0, shuffle=True
    )
    # The first batches were decoded while nothing else was done.
    ahead = 2 * num_workers + 1
    num_images = 0
    for number, batch in enumerate(loader):
        step()
        now = time.perf_counter()
        if number == 0:
            started = begun = now
        elif number < ahead and now - started < seconds / 2:
            begun = now
        else:
            num_images += len(batch.targets)
            if now - started > seconds:
                break
    return num_images / (now - begun) if num_images else 0.0
