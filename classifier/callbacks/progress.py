"""How fast an evaluation goes: images per second, in a progress bar or in lines of the log."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

log = logging.getLogger(__name__)

LINE_EVERY_SECONDS = 10.0
_DRAWN_EVERY_SECONDS = 0.2
_now = time.monotonic


class ImageRate(Callback):
    """Counts the images of a validation, test or prediction, and says how fast they went.

    Args:
        every_seconds: Between two lines on the way; None for the last line alone, where a progress
            bar is drawn.
    """

    def __init__(self, every_seconds: float | None = LINE_EVERY_SECONDS) -> None:
        self.every_seconds = every_seconds
        self.num_images = 0
        self._num_total = 0
        self._started = self._told = 0.0
        self._result: str | None = None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return _now() - self._started

    @property
    def per_second(self) -> float:
        """Images per second, of all so far."""
        return self.num_images / max(self.seconds, 1e-9)

    def _start(self, trainer: Any, stage: str) -> None:
        stages = getattr(trainer.datamodule, "stage", None)
        self._num_total = 0 if stages is None else len(stages(stage))
        self.num_images = 0
        self._started = self._told = _now()

    def _count(self, batch: Any) -> None:
        self.num_images += len(batch[0])
        now = _now()
        ends = self.num_images == self._num_total  # of which the last line tells
        if self.every_seconds is not None and now - self._told >= self.every_seconds and not ends:
            self._told = now
            of_all = f" of {self._num_total}" if self._num_total else ""
            log.info("%d%s images (%.1f images/s)", self.num_images, of_all, self.per_second)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._start(trainer, "val")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._start(trainer, "test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self._start(trainer, "predict")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count a batch."""
        self._count(batch)

    on_test_batch_end = on_validation_batch_end = on_predict_batch_end  # type: ignore[assignment]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note how fast it went."""
        self._result = (
            f"{self.num_images} images in {self.seconds:.1f} s ({self.per_second:.1f} images/s)"
        )

    on_test_end = on_validation_end = on_predict_end

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say it, below the progress bar, which is closed by now; not of what was interrupted."""
        if self._result is not None:
            log.info("%s", self._result)
        self._result = None


class ImagesBar(TQDMProgressBar):
    """Lightning's progress bar with images/s, for evaluation and prediction.

    Args:
        rate: Counts the images, in a callback that comes before this one.
    """

    # Without Lightning's batches per second.
    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} batches [{elapsed}<{remaining}{postfix}]"

    def __init__(self, rate: ImageRate) -> None:
        super().__init__(refresh_rate=1)
        self.rate = rate
        self._drawn = 0.0

    def _should_update(self, current: int, total: int) -> bool:
        """Whether it is time to draw: batches may take a millisecond, or a minute."""
        now = _now()
        if not self.is_enabled or (now - self._drawn < _DRAWN_EVERY_SECONDS and current != total):
            return False
        self._drawn = now
        shown = f"{self.rate.per_second:.1f} images/s"
        for bar in (self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar):
            if bar is not None:
                bar.set_postfix_str(shown, refresh=False)
        return True
