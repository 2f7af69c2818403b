"""Entries of `metrics:` -> torchmetrics: names, arguments, and what can be logged."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
import torchmetrics
from torchmetrics import Metric
from torchmetrics import classification as multiclass

from classifier.errors import ConfigError
from classifier.importing import import_path, public_names

# Accuracy is the share of images that are right; all other metrics are means over the classes.
_NOT_MACRO = {"accuracy": "micro"}
_TASK_PREFIX = re.compile(r"^(Multiclass|Binary|Multilabel)")

MetricSpec = str | dict[str, Any]


def parse_metric(spec: MetricSpec, index: int) -> tuple[str, Any, dict[str, Any]]:
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


def build_metric(cls: Any, arguments: dict[str, Any], num_classes: int) -> Metric:
    """A metric for a number of classes."""
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


def check_scalar(cls: Any, arguments: dict[str, Any], key: str) -> None:
    """Try a metric on three classes: only a single number can be logged."""
    logits = torch.eye(3).repeat(2, 1)
    try:
        metric = build_metric(cls, arguments, 3)
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


def in_bounds(metric: Metric, value: Any) -> Any:
    """Rounding may lift a perfect score to 1.0000001."""
    high = metric.plot_upper_bound
    return value if high is None else value.clamp(max=high)


def _snake(name: str) -> str:
    """F1Score -> f1_score, AUROC -> auroc."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
