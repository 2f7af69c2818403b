"""What an evaluation comes to: the objects between its arithmetic and its pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import ConfigError

MULTICLASS, MULTILABEL = "multiclass", "multilabel"


@dataclass(frozen=True)
class Predictions:
    """Every image of a stage that could be decoded, with its truth and what the model said.

    Args:
        class_names: In the order of the columns.
        task: multiclass or multilabel.
        paths: (N) names as predictions.csv has them.
        probabilities: (N, C) float64.
        targets: (N,) int class indices; in multilabel (N, C) bool.
        predicted: What the model decided, of the shape and type of targets.
        failed: (path, reason) of the images that could not be decoded.
    """

    class_names: tuple[str, ...]
    task: str
    paths: list[str]
    probabilities: NDArray[np.float64]
    targets: NDArray[Any]
    predicted: NDArray[Any]
    failed: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def several(self) -> bool:
        """Whether an image may have any number of classes."""
        return self.task == MULTILABEL

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the prediction is the truth; in multilabel all classes of it."""
        same: NDArray[np.bool_] = np.equal(self.targets, self.predicted)
        return np.asarray(same.all(axis=1) if self.several else same)

    @property
    def support(self) -> NDArray[np.int64]:
        """(C,) images of each class."""
        if self.several:
            return np.asarray(self.targets.sum(axis=0), dtype=np.int64)
        return np.bincount(self.targets, minlength=len(self.class_names)).astype(np.int64)

    def positive(self, name: str | None) -> int | None:
        """Of two classes the index of the positive one; None where there are not two.

        Args:
            name: The user's choice; None is the second class.

        Raises:
            ConfigError: there is no such class.
        """
        if self.several or len(self.class_names) != 2:
            return None
        if name is None:
            return 1
        if name not in self.class_names:
            raise ConfigError(
                "evaluation.positive_class", "there is no such class", got=name,
                remedy=f"The classes are {', '.join(self.class_names)}",
                name=name, options=self.class_names,
            )  # fmt: skip
        return self.class_names.index(name)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Args:
        value: As it was measured.
        low: Lower end; None where the figure has no interval.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassFigures:
    """How good a model is for one class.

    Args:
        name: Of the class.
        support: Its images.
        predicted: Images that were taken for it.
        precision: In [0, 1]; 0 where no image was taken for it.
        recall: In [0, 1]; None where it has no images.
        f1_score: In [0, 1]; None where it has no images.
        auroc: Of this class against the rest; None where one of the two has no images.
        average_precision: Of this class against the rest; None where it has no images.
        threshold: The probability from which on an image has it; None in multiclass.
    """

    name: str
    support: int
    predicted: int
    precision: float
    recall: float | None
    f1_score: float | None
    auroc: float | None = None
    average_precision: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Curves:
    """What the pictures of an evaluation show, each a table of columns of equal length.

    Args:
        reliability: confidence_low, confidence_high, num_images, confidence (mean), accuracy; a
            row for each bin that has images.
        coverage: threshold, coverage (share of images decided), accuracy (of these).
        roc: class, threshold, false_positive_rate, true_positive_rate; of the positive class.
        precision_recall: class, threshold, recall, precision; of the positive class. In multilabel
            both are of every class.
    """

    reliability: dict[str, list[Any]]
    coverage: dict[str, list[Any]]
    roc: dict[str, list[Any]]
    precision_recall: dict[str, list[Any]]


@dataclass(frozen=True)
class Evaluation:
    """All that report/ says of one stage.

    Args:
        stage: validation or test.
        predictions: Image by image.
        estimates: Headline figures by name, the most important first; names are those of
            MetricsLogger where it has them, without the stage.
        figures: Further figures without interval, by name.
        classes: One for each class, in the order of the classes.
        absent: Names of classes without images: in no average.
        confusion: (C, C) images by truth (rows) and prediction; in multilabel (C, 2, 2) by
            class, truth and prediction.
        curves: For the pictures.
        losses: (N,) of each image: -log of the truth's probability; in multilabel the mean of the
            classes' binary cross entropies.
        positive: Index of the positive class of two; None else.
        calibration: temperature, ece_before, ece_after where it was fitted; else empty.
        abstain_below: As configured.
    """

    stage: str
    predictions: Predictions
    estimates: dict[str, Estimate]
    figures: dict[str, float]
    classes: list[ClassFigures]
    absent: list[str]
    confusion: NDArray[np.int64]
    curves: Curves
    losses: NDArray[np.float64]
    positive: int | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    abstain_below: float | None = None
