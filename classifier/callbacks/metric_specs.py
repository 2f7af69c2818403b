"""Entries of `metrics:` -> torchmetrics: names, arguments, and what can be logged."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric, classification

from classifier.errors import ConfigError, reason_of
from classifier.importing import import_path, public_names
from classifier.model.tasks import MULTICLASS, MULTILABEL, TASKS

# What a metric is given beside the targets: what the model decided (class indices; in multilabel
# ones and zeros), or, where it compares scores, logits (in multilabel probabilities).
LOGITS, DECISIONS, PROBABILITIES = "logits", "decisions", "probabilities"

# Accuracy is the share of images (multilabel: of labels) that are right; all other metrics are
# means over the classes.
_NOT_MACRO = {"accuracy": "micro"}
_TASK_PREFIX = re.compile(r"^(Multiclass|Binary|Multilabel)")
_PREFIX = {MULTICLASS: "Multiclass", MULTILABEL: "Multilabel"}
_IN_WORDS = {MULTICLASS: "one label per image", MULTILABEL: "several labels per image"}

MetricSpec = str | dict[str, Any]


@dataclass(frozen=True)
class AskedMetric:
    """One entry of `metrics:`, before the task and the number of classes are known.

    Args:
        key: Of the configuration, for messages.
        name: Under which it is logged, without the stage.
        cls: As it was written: `F1Score` is of both tasks, `MultilabelF1Score` of one.
        arguments: The user's.
        own_task: The only task that it is for, or None.
    """

    key: str
    name: str
    cls: Any
    arguments: dict[str, Any]
    own_task: str | None
    _problems: dict[str, ConfigError | None] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a larger value is a better one, None where torchmetrics does not say."""
        task = next((task for task in TASKS if self.problem(task) is None), MULTICLASS)
        found: bool | None = getattr(self.build(task, 3), "higher_is_better", None)
        return found

    def given(self, task: str) -> str:
        """Which of logits, decisions and probabilities the metric takes.

        Args:
            task: multiclass or multilabel.
        """
        if task == MULTICLASS:
            return DECISIONS if self._counts_decisions() else LOGITS
        decided = "threshold" in self._parameters(task) and "threshold" not in self.arguments
        return DECISIONS if decided else PROBABILITIES

    def _counts_decisions(self) -> bool:
        """Whether of several classes the one that was chosen is all that matters."""
        variant = _variant(self.cls, MULTICLASS)
        binary = getattr(classification, variant.__name__.replace("Multiclass", "Binary"), None)
        if binary in (None, variant) or not variant.__module__.startswith("torchmetrics."):
            return False
        decides = "threshold" in inspect.signature(binary.__init__).parameters
        return decides and self.arguments.get("top_k", 1) == 1

    def _parameters(self, task: str) -> Collection[str]:
        return inspect.signature(_variant(self.cls, task).__init__).parameters

    def build(self, task: str, num_classes: int) -> Metric:
        """The metric of a task.

        Args:
            task: multiclass or multilabel.
            num_classes: In multilabel the number of labels.
        """
        parameters = self._parameters(task)
        defaults = {
            "num_classes": num_classes,
            "num_labels": num_classes,
            "average": _default_average(self.cls),
            # Targets are of our own making; the checks cost a synchronisation a step.
            "validate_args": False,
        }
        filled = {name: value for name, value in defaults.items() if name in parameters}
        metric: Metric = _variant(self.cls, task)(**{**filled, **self.arguments})
        return metric

    def problem(self, task: str) -> ConfigError | None:
        """Why the metric cannot be logged in a task, None where it can.

        Args:
            task: multiclass or multilabel.
        """
        if task not in self._problems:
            self._problems[task] = None
            try:
                self._check_task(task)
                self._check_init_args(task)
                self._check_value(task)
            except ConfigError as error:
                self._problems[task] = error
        return self._problems[task]

    def check_classes(self, num_classes: int) -> None:
        """Refuse what the data has too few classes for.

        Args:
            num_classes: Of the data.

        Raises:
            ConfigError: top_k is more than all of them.
        """
        top_k = self.arguments.get("top_k", 1)
        if top_k > num_classes:
            raise ConfigError(
                f"{self.key}.init_args.top_k", f"the data has {num_classes} classes", got=top_k,
                remedy=f"Write at most {num_classes}",
            )  # fmt: skip

    def _check_task(self, task: str) -> None:
        name = self.cls.__name__
        general = _TASK_PREFIX.sub("", name)
        if self.own_task not in (None, task):
            fits = hasattr(classification, f"{_PREFIX[task]}{general}")
            raise ConfigError(
                self.key, f"{name} is for {_IN_WORDS[str(self.own_task)]}, and the data is {task}",
                remedy=f"Write {general}, without a task" if fits else "Choose another metric",
            )  # fmt: skip
        if _chooses_by_task(self.cls) and _variant(self.cls, task) is self.cls:
            raise ConfigError(
                self.key, f"torchmetrics has no {name} for {_IN_WORDS[task]}",
                remedy="Choose another metric",
            )  # fmt: skip

    def _check_init_args(self, task: str) -> None:
        known = [
            *self._parameters(task),
            *inspect.signature(Metric.__init__).parameters,
            "dist_sync_on_step", "sync_on_compute", "compute_with_cache",
        ]  # fmt: skip
        options = [name for name in known if name not in ("self", "kwargs")]
        where = f" for {_IN_WORDS[task]}" if task == MULTILABEL else ""
        for name in self.arguments:
            if name not in options:
                raise ConfigError(
                    f"{self.key}.init_args.{name}", f"{self.cls.__name__} takes no {name!r}{where}",
                    remedy="See its documentation", name=name, options=options,
                )  # fmt: skip

    def _check_value(self, task: str) -> None:
        """Try the metric on three classes or more: only a single number can be logged."""
        name = self.cls.__name__
        try:
            num_classes = max(3, self.arguments.get("top_k", 1))
            metric = self.build(task, num_classes)
            metric.update(*_example(task, self.given(task), num_classes))
            value = metric.compute()
        except Exception as error:  # a class of anyone's, which may raise anything
            reason = reason_of(error)
            what = "class logits" if task == MULTICLASS else _IN_WORDS[task]
            raise ConfigError(
                self.key, f"{name} does not work on {what} ({reason})", got=self.arguments
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(
                self.key, f"{name} gives more than one number, which cannot be logged",
                remedy="Choose an average such as macro, or another metric",
            )  # fmt: skip


def parse_metric(spec: MetricSpec, index: int) -> AskedMetric:
    """One entry of `metrics:`.

    Args:
        spec: As it was written.
        index: Its place in the list.

    Raises:
        ConfigError: there is no such metric, or it can be logged in no task.
    """
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
    own_task = _own_task(cls, arguments, key)
    asked = AskedMetric(key, _name(cls, arguments), cls, arguments, own_task)
    problem = asked.problem(own_task or MULTICLASS)
    if problem is not None and (own_task is not None or asked.problem(MULTILABEL) is not None):
        raise problem
    return asked


def _metric_class(path: str, key: str) -> Any:
    key = f"{key}.class_path"
    if "." in path:
        found = import_path(path, key)
    else:
        options = [*public_names(torchmetrics), *public_names(classification)]
        found = getattr(torchmetrics, path, None) or getattr(classification, path, None)
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


def _own_task(cls: Any, arguments: dict[str, Any], key: str) -> str | None:
    """The task that class or arguments name; taken out of the arguments."""
    named = next((task for task in TASKS if cls.__name__.startswith(_PREFIX[task])), None)
    task: str | None = arguments.get("task", named)
    if task not in (None, *TASKS):
        raise ConfigError(
            f"{key}.init_args.task", "must be multiclass or multilabel", got=task,
            remedy="Leave it out",
        )  # fmt: skip
    if _chooses_by_task(cls):
        arguments.pop("task", None)
    return MULTICLASS if cls.__name__.startswith("Binary") else task


def _name(cls: Any, arguments: dict[str, Any]) -> str:
    name = _plain_name(cls)
    average = arguments.get("average")
    if average not in (None, _default_average(cls)):
        name = f"{name}_{average}"
    if "top_k" in arguments and arguments["top_k"] != 1:
        name = f"{name}_top{arguments['top_k']}"
    if "threshold" in arguments:
        name = f"{name}_at{str(arguments['threshold']).replace('.', '_')}"  # modules have no dots
    return name


def _default_average(cls: Any) -> str:
    return _NOT_MACRO.get(_plain_name(cls), "macro")


def _chooses_by_task(cls: Any) -> bool:
    """torchmetrics.F1Score only chooses between the classes of the tasks."""
    return "task" in inspect.signature(cls.__new__).parameters


def _variant(cls: Any, task: str) -> Any:
    """The class that torchmetrics.F1Score chooses for a task; any other class itself."""
    return getattr(classification, f"{_PREFIX[task]}{cls.__name__}", cls)


@cache
def _example(task: str, given: str, num_classes: int) -> tuple[Tensor, Tensor]:
    """Six images of the first three of at least as many classes, as a metric is given them."""
    targets = torch.tensor([0, 1, 2, 1, 2, 0])
    logits = torch.eye(num_classes)[:3].repeat(2, 1)
    if task == MULTICLASS:
        return logits.argmax(dim=1) if given == DECISIONS else logits, targets
    several = torch.nn.functional.one_hot(targets, num_classes)
    likely = logits * 0.5 + 0.25
    return (likely > 0.5).int() if given == DECISIONS else likely, several


def in_bounds(metric: Metric, value: Any) -> Any:
    """Rounding may lift a perfect score to 1.0000001.

    Not all bounds of torchmetrics are true ones, so that what is far above stays.
    """
    high = metric.plot_upper_bound
    return value if high is None else torch.where(value < high + 1e-4, value.clamp(max=high), value)


def _plain_name(cls: Any) -> str:
    """F1Score and MultilabelF1Score -> f1_score, AUROC -> auroc."""
    name = _TASK_PREFIX.sub("", cls.__name__)
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
