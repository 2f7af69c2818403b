"""MetricsLogger: torchmetrics by class path, logged as `<stage>_<metric>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric, MetricCollection

from classifier.callbacks.metric_specs import (
    MetricSpec,
    build_metric,
    check_scalar,
    in_bounds,
    parse_metric,
)
from classifier.errors import ConfigError

DEFAULT_METRICS = ("Accuracy", "F1Score", "Precision", "Recall")
STAGES = ("train", "validation", "test")

_COUNT = "update_count"


class MetricsLogger(Callback):
    """Computes metrics of every stage and logs them once an epoch.

    Each is updated in the step and computed at the end of the epoch. Averages are macro; another
    one is part of the name (`validation_f1_score_weighted`). accuracy is the share of images
    that are right.

    Args:
        metrics: torchmetrics by class path or short name, as a string or as `class_path` with
            `init_args`; num_classes and task are filled in. Default: Accuracy, F1Score, Precision,
            Recall.

    Raises:
        ConfigError: no such metric, or one that does not take an argument.
    """

    def __init__(self, metrics: list[MetricSpec] | None = None) -> None:
        self.specs: list[MetricSpec] = list(metrics or DEFAULT_METRICS)
        self._parsed = [parse_metric(spec, index) for index, spec in enumerate(self.specs)]
        self._collections: dict[str, MetricCollection] = {}
        self._resumed: dict[str, dict[str, Any]] = {}
        for index, (_, cls, arguments) in enumerate(self._parsed):
            check_scalar(cls, arguments, f"metrics.{index}")
        names = [name for name, _, _ in self._parsed]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(
                    f"metrics.{index}", f"is the second metric that is called {name}",
                    got=self.specs[index], remedy="Remove one of the two",
                )  # fmt: skip

    def names(self, stage: str) -> dict[str, bool | None]:
        """The names that a stage will log, each with whether higher is better.

        Args:
            stage: train, validation or test.
        """
        return {
            f"{stage}_{name}": getattr(build_metric(cls, arguments, 3), "higher_is_better", None)
            for name, cls, arguments in self._parsed
        }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Build the metrics for the model's number of classes, which is known by now."""
        self._build(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for a validation on its own."""
        self._build(pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for a test."""
        self._build(pl_module)

    def _build(self, pl_module: L.LightningModule) -> None:
        names: Sequence[str] | None = getattr(pl_module, "class_names", None)
        num_classes = len(names) if names else getattr(pl_module, "num_classes", None)
        if self._collections or num_classes is None:
            return
        for name in STAGES:
            built: dict[str, Metric | MetricCollection] = {
                f"{name}_{metric}": build_metric(cls, arguments, num_classes)
                for metric, cls, arguments in self._parsed
            }
            self._collections[name] = MetricCollection(built)

    def state_dict(self) -> dict[str, Any]:
        """What was counted of the current training epoch, so that a resume can go on counting."""
        train = self._collections.get("train")
        if train is None:
            return {}
        states = {
            name: {**metric.metric_state, _COUNT: metric.update_count}
            for name, metric in train.items(keep_base=True, copy_state=True)
        }
        return {"train": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint left off."""
        self._resumed = state_dict.get("train", {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the counts of a checkpoint."""
        for name, states in self._resumed.items():
            metric = self._collections["train"][name]
            metric._update_count = states.pop(_COUNT)
            for state, value in states.items():
                setattr(metric, state, value)
        self._resumed = {}

    def _start(self, stage: str) -> None:
        if stage in self._collections:
            self._collections[stage].reset()

    def _update(self, stage: str, outputs: Any) -> None:
        if stage in self._collections and isinstance(outputs, Mapping) and "logits" in outputs:
            logits = outputs["logits"]
            self._collections[stage].to(logits.device).update(logits.float(), outputs["targets"])

    def _log(self, stage: str, pl_module: L.LightningModule) -> None:
        if stage in self._collections:
            values = {
                name: in_bounds(metric, metric.compute())
                for name, metric in self._collections[stage].items(copy_state=False)
            }
            pl_module.log_dict(values, sync_dist=True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch before."""
        self._start("train")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a batch."""
        self._update("train", outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        self._log("train", pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch before."""
        self._start("validation")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self._update("validation", outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        self._log("validation", pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._start("test")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self._update("test", outputs)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the result."""
        self._log("test", pl_module)
