"""The section `evaluation`: how results are looked at. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from classifier.errors import ConfigError

SECTION = "evaluation"
# Precision or recall alone is best where hardly anything, or everything, is taken for a class.
TUNABLE_METRICS = ("f1_score", "balanced_accuracy", "accuracy", "matthews_corr_coef")
TOP_K = 5  # of a table
TOP_K_OF_FILES = 3  # of the file of an image


@dataclass
class EvaluationSettings:
    """How a trained model is judged and used.

    Args:
        report: Write report/ after a training, --val and --test; a trial of a sweep writes none.
        positive_class: Of two classes the one that AUROC, average precision, ROC and PR curves
            are about; null is the second.
        calibrate: temperature fits one number on the validation images after a training, by which
            logits are divided from then on; null leaves probabilities as they are.
        tune_thresholds: f1_score, balanced_accuracy, accuracy or matthews_corr_coef: what the
            decision thresholds of several labels, or of two classes, are chosen for on the
            validation images after a training; null keeps the model's.
        abstain_below: Predictions whose probability is below this number in [0, 1] are marked
            as undecided; null marks none.
        tta: flips (the image and its mirror image) or five_crop (four corners and the centre):
            probabilities of --val, --test and --predict are means over these views; null is one.
        format: csv or parquet: the table of predictions; json: beside predictions.csv one file
            for each image, with its likeliest classes.
        top_k: How many of the likeliest classes predictions name, at least 1; null is 5 in tables
            and 3 in the files of format json.
        num_explained: How many images --explain shows at most, at least 1.

    Raises:
        ConfigError: a number out of its range.
    """

    report: bool = True
    positive_class: str | None = None
    calibrate: Literal["temperature"] | None = None
    tune_thresholds: str | None = None
    abstain_below: float | None = None
    tta: Literal["flips", "five_crop"] | None = None
    format: Literal["csv", "parquet", "json"] = "csv"
    top_k: int | None = None
    num_explained: int = 16

    def __post_init__(self) -> None:
        if self.tune_thresholds not in (None, *TUNABLE_METRICS):
            raise ConfigError(
                f"{SECTION}.tune_thresholds", "thresholds are not chosen for this metric",
                got=self.tune_thresholds, remedy=f"Write {', '.join(TUNABLE_METRICS)} or null",
                name=str(self.tune_thresholds), options=TUNABLE_METRICS,
            )  # fmt: skip
        if self.abstain_below is not None and not 0.0 <= self.abstain_below <= 1.0:
            raise ConfigError(
                f"{SECTION}.abstain_below", "must be in [0, 1]", got=self.abstain_below,
                remedy="Write for example 0.6, or null",
            )  # fmt: skip
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(
                f"{SECTION}.top_k", "must be at least 1", got=self.top_k,
                remedy="Write for example 5",
            )  # fmt: skip
        if self.num_explained < 1:
            raise ConfigError(
                f"{SECTION}.num_explained", "must be at least 1", got=self.num_explained,
                remedy="Write for example 16",
            )  # fmt: skip

    def check_positive_class(self, task: str | None, class_names: Sequence[str] | None) -> None:
        """Refuse a positive class that there is not, or where there are not two.

        Args:
            task: multiclass or multilabel; None while it is not known.
            class_names: Of the data; None while they are not known.

        Raises:
            ConfigError: names the class.
        """
        name = self.positive_class
        if name is None or class_names is None or task is None:
            return
        key = f"{SECTION}.positive_class"
        if task != "multiclass" or len(class_names) != 2:
            raise ConfigError(
                key, "has no effect: it is for one label per image and two classes", got=name,
                remedy="Write null",
            )  # fmt: skip
        if name not in class_names:
            raise ConfigError(
                key, "there is no such class", got=name,
                remedy=f"The classes are {', '.join(class_names)}", name=name, options=class_names,
            )  # fmt: skip
