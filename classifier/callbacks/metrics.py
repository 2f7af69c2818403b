"""MetricsLogger: torchmetrics by class path, logged as `<stage>_<metric>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric, MetricCollection

from classifier.callbacks.counting import without_waiting
from classifier.callbacks.metric_specs import (
    DECISIONS,
    LOGITS,
    PROBABILITIES,
    MetricSpec,
    in_bounds,
    parse_metric,
)
from classifier.errors import ConfigError
from classifier.model.tasks import MULTICLASS, MULTILABEL

DEFAULT_METRICS = ("Accuracy", "F1Score", "Precision", "Recall")
STAGES = ("train", "validation", "test")

_COUNT = "update_count"


class MetricsLogger(Callback):
    """Computes metrics of every stage and logs them once an epoch.

    Each is updated in the step and computed at the end of the epoch. Averages are macro; another
    one is part of the name (`validation_f1_score_weighted`). accuracy is the share of images
    that are right; in multilabel the share of labels. Metrics of decisions follow the model's own,
    by its thresholds where it has some; those that compare scores, as AUROC, get all of them.

    A model of your own is taken for multiclass, with `logits` and `targets` in what its steps
    return; one whose `task` is multilabel has `probabilities` and `decisions` as ImageClassifier.

    Args:
        metrics: torchmetrics by class path or short name, as a string or as `class_path` with
            `init_args`; task and number of classes are filled in. Default: Accuracy, F1Score,
            Precision, Recall.

    Raises:
        ConfigError: no such metric, or one that does not take an argument.
    """

    def __init__(self, metrics: list[MetricSpec] | None = None) -> None:
        specs: list[MetricSpec] = list(metrics or DEFAULT_METRICS)
        self._asked = [parse_metric(spec, index) for index, spec in enumerate(specs)]
        # By stage, and by what the metrics are given.
        self._collections: dict[str, dict[str, MetricCollection]] = {}
        self._resumed: dict[str, dict[str, Any]] = {}
        names = [asked.name for asked in self._asked]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(
                    f"metrics.{index}", f"is the second metric that is called {name}",
                    got=specs[index], remedy="Remove one of the two",
                )  # fmt: skip

    def names(self, stage: str) -> dict[str, bool | None]:
        """The names that a stage will log, each with whether higher is better.

        Args:
            stage: train, validation or test.
        """
        return {f"{stage}_{asked.name}": asked.higher_is_better for asked in self._asked}

    def check(self, task: str, num_classes: int | None = None) -> None:
        """Refuse metrics that cannot be logged in a task.

        Args:
            task: multiclass or multilabel.
            num_classes: Of the data; None where it is not known.

        Raises:
            ConfigError: the first that cannot.
        """
        for asked in self._asked:
            problem = asked.problem(task)
            if problem is not None:
                raise problem
            if num_classes is not None:
                asked.check_classes(num_classes)

    def _build(self, pl_module: L.LightningModule) -> None:
        """Make the metrics for the model's classes, which are known by the first epoch."""
        num_classes = num_classes_of(pl_module)
        if self._collections or num_classes is None:
            return
        task = task_of(pl_module)
        self.check(task, num_classes)
        for stage in STAGES:
            built: dict[str, dict[str, Metric | MetricCollection]] = {}
            for asked in self._asked:
                named = built.setdefault(asked.given(task), {})
                named[f"{stage}_{asked.name}"] = asked.build(task, num_classes)
            self._collections[stage] = {
                given: MetricCollection(metrics) for given, metrics in built.items()
            }

    def state_dict(self) -> dict[str, Any]:
        """What was counted of the current training epoch, so that a resume can go on counting."""
        states = {
            name: {**_whole_state(metric), _COUNT: metric.update_count}
            for collection in self._collections.get("train", {}).values()
            for name, metric in collection.items(keep_base=True, copy_state=True)
        }
        return {"train": states} if states else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint left off."""
        self._resumed = state_dict.get("train", {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the counts of a checkpoint: one process does, as they are those of all."""
        self._build(pl_module)
        if not trainer.is_global_zero:
            self._resumed = {}
        for name, states in self._resumed.items():
            collections = self._collections["train"].values()
            metric = next(found[name] for found in collections if name in found)
            metric._update_count = states.pop(_COUNT)
            for state, value in states.items():
                setattr(metric, state, value)
            metric.to(pl_module.device)
        self._resumed = {}

    def _start(self, stage: str, pl_module: L.LightningModule) -> None:
        self._build(pl_module)
        for collection in self._collections.get(stage, {}).values():
            collection.to(pl_module.device).reset()

    def _update(self, stage: str, pl_module: L.LightningModule, outputs: Any) -> None:
        collections = self._collections.get(stage)
        if collections is None or not isinstance(outputs, Mapping) or "logits" not in outputs:
            return
        logits, targets = outputs["logits"].float(), outputs["targets"]
        given = {LOGITS: logits}
        several = task_of(pl_module) == MULTILABEL
        if by_threshold(pl_module):
            model: Any = pl_module
            given[PROBABILITIES] = model.probabilities(logits)
            decided = model.decisions(given[PROBABILITIES]).int()
            given[DECISIONS] = decided if several else decided.argmax(dim=1)
        else:
            given[DECISIONS] = logits.argmax(dim=1)
        targets = targets.int() if several else targets
        with without_waiting(logits.device):
            for name, collection in collections.items():
                collection.update(given[name], targets)

    def _log(self, stage: str, pl_module: L.LightningModule) -> None:
        values = {
            name: in_bounds(metric, metric.compute())
            for collection in self._collections.get(stage, {}).values()
            for name, metric in collection.items(copy_state=False)
        }
        pl_module.log_dict(values, sync_dist=True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch before."""
        self._start("train", pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch before."""
        self._start("validation", pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._start("test", pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Count a batch."""
        self._update("train", pl_module, outputs)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Count a batch."""
        self._update("validation", pl_module, outputs)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Count a batch."""
        self._update("test", pl_module, outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        self._log("train", pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        self._log("validation", pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the result."""
        self._log("test", pl_module)


def _whole_state(metric: Metric) -> dict[str, Any]:
    """What all processes have counted together."""
    with metric.sync_context(should_unsync=True):
        state = dict(metric.metric_state)
    lists = [name for name, default in metric._defaults.items() if isinstance(default, list)]
    # Lists of batches come back from the other processes as one tensor.
    return state | {n: [state[n]] for n in lists if isinstance(state[n], torch.Tensor)}


def task_of(model: Any) -> str:
    """The task of any model; multiclass where it does not say.

    Args:
        model: Whose classes are known.
    """
    return MULTILABEL if getattr(model, "task", None) == MULTILABEL else MULTICLASS


def by_threshold(model: Any) -> bool:
    """Whether something other than the likeliest class decides; a model of one's own may not say.

    Args:
        model: Whose classes are known.
    """
    return bool(getattr(model, "by_threshold", task_of(model) == MULTILABEL))


def num_classes_of(model: Any) -> int | None:
    """The number of classes of any model; None where it does not say.

    Args:
        model: Whose classes are known.
    """
    names: Sequence[str] | None = getattr(model, "class_names", None)
    return len(names) if names else getattr(model, "num_classes", None)
