"""MetricsLogger: torchmetrics by class path, logged as `<stage>_<metric>`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torchmetrics
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as multiclass

from classifier.errors import ConfigError
from classifier.importing import import_path, public_names

DEFAULT_METRICS = ("Accuracy", "F1Score", "Precision", "Recall")
STAGES = ("train", "validation", "test")
# Accuracy is the share of images that are right; all other metrics are means over the classes.
_NOT_MACRO = {"accuracy": "micro"}
_TASK_PREFIX = re.compile(r"^(Multiclass|Binary|Multilabel)")

_COUNT = "update_count"

MetricSpec = str | dict[str, Any]


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
        self._parsed = [_parse(spec, index) for index, spec in enumerate(self.specs)]
        self._collections: dict[str, MetricCollection] = {}
        self._resumed: dict[str, dict[str, Any]] = {}
        for index, (_, cls, arguments) in enumerate(self._parsed):
            _check_scalar(cls, arguments, f"metrics.{index}")
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
            f"{stage}_{name}": getattr(_built(cls, arguments, 3), "higher_is_better", None)
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
                f"{name}_{metric}": _built(cls, arguments, num_classes)
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
                name: _in_bounds(metric, metric.compute())
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


def _parse(spec: MetricSpec, index: int) -> tuple[str, Any, dict[str, Any]]:
    """Name, class and arguments of one entry of `metrics:`."""
    key = f"metrics.{index}"
    if isinstance(spec, str):
        spec = {"class_path": spec}
    for name in spec:
        if name not in ("class_path", "init_args"):
            raise ConfigError(
                f"{key}.{name}", "unknown key", remedy="The keys are class_path and init_args",
                name=name, options=("class_path", "init_args"),
            )  # fmt: skip
    path = spec.get("class_path")
    if not isinstance(path, str):
        raise ConfigError(
            f"{key}.class_path", "must name a metric", got=path,
            remedy="Write for example torchmetrics.F1Score",
        )  # fmt: skip
    cls = _metric_class(path, key)
    arguments = dict(spec.get("init_args") or {})
    _check_init_args(cls, arguments, f"{key}.init_args")
    base = _snake(_TASK_PREFIX.sub("", cls.__name__))
    average = arguments.get("average")
    default = _NOT_MACRO.get(base, "macro")
    name = base if average in (None, default) else f"{base}_{average}"
    if "top_k" in arguments and arguments["top_k"] != 1:
        name = f"{name}_top{arguments['top_k']}"
    if "average" in inspect.signature(_multiclass(cls).__init__).parameters:
        arguments.setdefault("average", default)
    return name, cls, arguments


def _metric_class(path: str, key: str) -> Any:
    key = f"{key}.class_path"
    if "." in path:
        found = import_path(path, key)
    else:
        options = [*public_names(torchmetrics), *public_names(multiclass)]
        found = getattr(torchmetrics, path, None) or getattr(multiclass, path, None)
        if found is None:
            raise ConfigError(
                key, "torchmetrics has no such metric", got=path, name=path, options=options,
                remedy="Write a class of torchmetrics or an import path",
            )  # fmt: skip
    if not (isinstance(found, type) and issubclass(found, Metric)):
        raise ConfigError(
            key, "is no torchmetrics.Metric", got=path,
            remedy="Write the import path of a metric class",
        )  # fmt: skip
    return found


def _multiclass(cls: Any) -> Any:
    """torchmetrics.F1Score only chooses between classes; this is the one that it chooses."""
    return getattr(multiclass, f"Multiclass{cls.__name__}", cls)


def _check_init_args(cls: Any, arguments: dict[str, Any], key: str) -> None:
    task = arguments.get("task", "multiclass")
    if task != "multiclass":
        raise ConfigError(
            f"{key}.task", "must be multiclass", got=task, remedy="Leave it out",
        )  # fmt: skip
    if "task" in inspect.signature(cls.__new__).parameters:
        arguments.pop("task", None)
    real = _multiclass(cls)
    known = [
        *inspect.signature(real.__init__).parameters,
        *inspect.signature(Metric.__init__).parameters,
        "dist_sync_on_step", "sync_on_compute", "compute_with_cache",
    ]  # fmt: skip
    for name in arguments:
        if name not in known or name in ("self", "kwargs"):
            raise ConfigError(
                f"{key}.{name}", f"{cls.__name__} takes no {name!r}",
                remedy="See its documentation", name=name,
                options=[item for item in known if item not in ("self", "kwargs")],
            )  # fmt: skip


def _built(cls: Any, arguments: dict[str, Any], num_classes: int) -> Metric:
    real = _multiclass(cls)
    parameters = inspect.signature(real.__init__).parameters
    filled = dict(arguments)
    if "num_classes" in parameters:
        filled.setdefault("num_classes", num_classes)
    if "validate_args" in parameters:
        # Targets are class indices of our own making; the checks cost a synchronisation a step.
        filled.setdefault("validate_args", False)
    metric: Metric = real(**filled)
    return metric


def _check_scalar(cls: Any, arguments: dict[str, Any], key: str) -> None:
    """Try a metric on three classes: only a single number can be logged."""
    logits = torch.eye(3).repeat(2, 1)
    try:
        metric = _built(cls, arguments, 3)
        metric.update(logits, torch.tensor([0, 1, 2, 1, 2, 0]))
        value = metric.compute()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            key, f"{cls.__name__} does not work on class logits ({reason})", got=arguments
        ) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise ConfigError(
            key, f"{cls.__name__} gives more than one number, which cannot be logged",
            remedy="Choose an average such as macro, or another metric",
        )  # fmt: skip


def _in_bounds(metric: Metric, value: Any) -> Any:
    """Rounding may lift a perfect score to 1.0000001."""
    high = metric.plot_upper_bound
    return value if high is None else value.clamp(max=high)


def _snake(name: str) -> str:
    """F1Score -> f1_score, AUROC -> auroc."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
