"""GreedySoup: the mean of the checkpoints that a training kept, where it is better than each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from classifier.callbacks.averaging import check_batches, measure_batch_norm
from classifier.callbacks.metrics import MetricsLogger
from classifier.errors import ConfigError, RunError
from classifier.runs import SOUP

log = logging.getLogger(__name__)

# What Lightning's averaging keeps beside the averaged weights, for a resume.
_RAW_KEYS = ("current_model_state", "averaging_state")


class GreedySoup(Callback):
    """After the training, averages the checkpoints that a ModelCheckpoint kept, where it helps.

    The best checkpoint comes first. Each further one, in the order of its score, stays in the mean
    if the monitored validation metric does not get worse. checkpoints/soup.ckpt is written when the
    mean is better than the best checkpoint, and is then what the run folder stands for in
    --ckpt_path; result.json has the facts under `soup`. The score has chosen the soup on the
    validation images: only other images say what it is worth.

    Args:
        batch_norm_batches: Training batches from which the BatchNorm statistics of each mean are
            measured; null takes all. Networks without BatchNorm need none.

    Raises:
        ConfigError: no such number of batches.

    Source: Wortsman et al., "Model soups", ICML 2022, recipe 1; BatchNorm as in Izmailov et al.,
        "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
    """

    def __init__(self, batch_norm_batches: int | None = 100) -> None:
        check_batches(batch_norm_batches)
        self.batch_norm_batches = batch_norm_batches

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse several devices, on which images would be counted twice."""
        if stage == "fit" and trainer.world_size > 1:
            raise ConfigError(
                "trainer.devices", "GreedySoup compares checkpoints on one device",
                got=trainer.world_size, remedy="Write 1, or leave GreedySoup out",
            )  # fmt: skip

    def cook(
        self, trainer: Any, model: L.LightningModule, data: Any, folder: Path, watcher: Callback
    ) -> dict[str, Any] | None:
        """Make the soup.

        Args:
            trainer: After the training.
            model: Has the same weights afterwards.
            data: Its validation images decide.
            folder: For soup.ckpt.
            watcher: Takes part in the validations.

        Returns:
            The facts; None when there is nothing to average.
        """
        saver = _source(trainer.callbacks)
        if saver is None or len(saver.best_k_models) < 2:
            log.info("GreedySoup: fewer than two checkpoints were kept, nothing to average")
            return None
        kitchen = _Kitchen(trainer, model, data, saver, self.batch_norm_batches, watcher)
        with _as_it_was(model):
            facts, soup = kitchen.cook()
        facts["checkpoint"] = None
        if soup is None:
            log.info(
                "GreedySoup: no average of %d checkpoints is better than the best one, %s %.4f",
                facts["num_checkpoints"], facts["monitor"], facts["best_score"],
            )  # fmt: skip
            return facts
        checkpoint = torch.load(kitchen.ranked[0], map_location="cpu", weights_only=True)
        rest = {key: value for key, value in checkpoint.items() if key not in _RAW_KEYS}
        trainer.strategy.checkpoint_io.save_checkpoint({**rest, "state_dict": soup}, folder / SOUP)
        facts["checkpoint"] = f"{folder.name}/{SOUP}"
        log.info(
            "GreedySoup: %s of %d checkpoints has %s %.4f, the best one %.4f",
            SOUP, len(facts["ingredients"]), facts["monitor"], facts["score"], facts["best_score"],
        )  # fmt: skip
        return facts


class _Kitchen:
    """Tries averages of checkpoints on the validation images."""

    def __init__(
        self,
        trainer: Any,
        model: L.LightningModule,
        data: Any,
        saver: ModelCheckpoint,
        batches: int | None,
        watcher: Callback,
    ) -> None:
        self.trainer, self.model, self.data, self.batches = trainer, model, data, batches
        self.monitor, self.sign = str(saver.monitor), 1.0 if saver.mode == "max" else -1.0
        scores = {file: self.sign * float(score) for file, score in saver.best_k_models.items()}
        self.ranked = sorted(scores, key=lambda file: scores[file], reverse=True)
        root, limit = trainer.strategy.root_device, trainer.limit_val_batches
        whole = isinstance(limit, float) and limit == 1.0  # Lightning's default, unless it is told
        loggers = [item for item in trainer.callbacks if isinstance(item, MetricsLogger)]
        self.validator: Any = L.Trainer(
            accelerator=root.type, devices=1 if root.index is None else [root.index],
            precision=trainer.precision, limit_val_batches=None if whole else limit,
            callbacks=[*loggers, watcher], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    def cook(self) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
        """The facts, and the weights when they are better than the best checkpoint's."""
        soup, used = self._weights(self.ranked[0]), [self.ranked[0]]
        best = score = self._score(soup)
        metrics = self._metrics()
        tasted = soup
        for file in self.ranked[1:]:
            mean = self._mean(soup, self._weights(file), len(used))
            found = self._score(mean, measure=True)
            if self.sign * found >= self.sign * score:
                soup, score, used = mean, found, [*used, file]
                tasted = {
                    name: value.cpu().clone() for name, value in self.model.state_dict().items()
                }
                metrics = self._metrics()
        facts = {
            "monitor": self.monitor, "num_checkpoints": len(self.ranked), "best_score": best,
            "score": score, "ingredients": [Path(file).name for file in used], "metrics": metrics,
        }  # fmt: skip
        return facts, tasted if self.sign * score > self.sign * best else None

    def _weights(self, file: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)[
            "state_dict"
        ]
        return state

    def _mean(
        self, soup: Mapping[str, Tensor], other: Mapping[str, Tensor], count: int
    ) -> dict[str, Tensor]:
        """The soup of `count` checkpoints with one more; what is no weight stays the best's."""
        names = {name for name, _ in self.model.named_parameters()}
        names |= {name for name, _ in self.model.named_buffers()}
        return {
            name: torch.lerp(value, other[name], 1.0 / (count + 1))
            if name in names and value.is_floating_point()
            else value
            for name, value in soup.items()
        }

    def _score(self, weights: Mapping[str, Tensor], *, measure: bool = False) -> float:
        self.model.load_state_dict(weights)
        if measure:
            self.model.to(self.trainer.strategy.root_device)
            measure_batch_norm(self.model, self.trainer, self.data, self.batches)
        self.validator.validate(self.model, datamodule=self.data, verbose=False)
        if self.monitor not in self.validator.callback_metrics:
            raise RunError(
                f"GreedySoup: a validation by itself does not log {self.monitor}; the training is "
                "complete. Monitor validation_loss or a metric of classifier.MetricsLogger"
            )
        return float(self.validator.callback_metrics[self.monitor])

    def _metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.validator.callback_metrics.items()}


def check_soup(callbacks: Sequence[Callback]) -> None:
    """Refuse a soup without ingredients.

    Args:
        callbacks: The configuration's, instantiated.

    Raises:
        ConfigError: no ModelCheckpoint keeps several checkpoints by a validation metric.
    """
    soup = next((index for index, c in enumerate(callbacks) if isinstance(c, GreedySoup)), None)
    if soup is None:
        return
    saver = _source(callbacks)
    if saver is None:
        raise ConfigError(
            f"trainer.callbacks.{soup}",
            "GreedySoup averages what a ModelCheckpoint with a monitor keeps, and there is none",
            remedy="Add {class_path: ModelCheckpoint, init_args: {monitor: validation_f1_score, "
            "mode: max, save_top_k: 5}}",
        )  # fmt: skip
    key = f"trainer.callbacks.{list(callbacks).index(saver)}.init_args"
    if saver.save_top_k in (0, 1):
        raise ConfigError(
            f"{key}.save_top_k", "GreedySoup averages at least two checkpoints",
            got=saver.save_top_k, remedy="Write for example 5",
        )  # fmt: skip
    if not str(saver.monitor).startswith("validation_"):
        raise ConfigError(
            f"{key}.monitor", "GreedySoup compares on the validation images", got=saver.monitor,
            remedy="Write a validation metric",
        )  # fmt: skip


@contextmanager
def _as_it_was(model: L.LightningModule) -> Iterator[None]:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(before)


def _source(callbacks: Sequence[Any]) -> ModelCheckpoint | None:
    """The ModelCheckpoint that chooses the best checkpoint."""
    savers = (c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
    return next(savers, None)
