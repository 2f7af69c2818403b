"""Pictures of an evaluation: how it was learnt, how far its probabilities can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.class_plots import class_pictures
from classifier.evaluation.picture import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    Picture,
    label,
    new_axes,
    short,
    style,
)
from classifier.evaluation.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_METRICS = 2
_MOST_CURVES = 10
_MOST_POINTS = 400  # of a curve: more than the picture has pixels only make the page heavy
_LOWER_IS_BETTER = ("loss", "error", "distance", "ece", "brier")
_TRUST = "Calibration and coverage"
_Columns = Mapping[str, Sequence[Any]]


def draw(evaluation: Evaluation, history: Sequence[Mapping[str, str]]) -> dict[str, Picture]:
    """All pictures that there is something to show for.

    Args:
        evaluation: Of one stage.
        history: Rows of metrics.csv; empty where nothing was trained.

    Returns:
        Name of the file, without its ending -> picture; in the order of the page.
    """
    with style():
        pictures = _learning_curves(history, list(evaluation.estimates))
        if len(evaluation.predictions):
            pictures |= class_pictures(evaluation)
            pictures |= _binary_curves(evaluation)
            pictures |= _reliability(evaluation)
            pictures |= _scores(evaluation)
            pictures |= _coverage(evaluation)
    return pictures


def lower_is_better(name: str) -> bool:
    """Whether a metric of this name counts mistakes."""
    return any(word in name for word in _LOWER_IS_BETTER)


def _learning_curves(
    history: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, Picture]:
    """Loss and the first metrics that the training logged for its validation."""
    pictures = {}
    logged = [name for name in names if _course(history, f"validation_{name}")]
    for name in ["loss", *logged[:_MOST_METRICS]]:
        courses = {
            stage: course
            for stage in ("train", "validation")
            if (course := _course(history, f"{stage}_{name}"))
        }
        if courses:
            pictures[f"learning_{name}"] = _learning_curve(name, courses)
    return pictures


def _course(history: Sequence[Mapping[str, str]], column: str) -> dict[int, float]:
    """Epoch, counted from 1 -> the last finite value that the column has in it."""
    course = {}
    for row in history:
        if row.get(column) and row.get("epoch"):
            value = float(row[column])
            if math.isfinite(value):
                course[int(float(row["epoch"])) + 1] = value
    return course


def _learning_curve(name: str, courses: Mapping[str, Mapping[int, float]]) -> Picture:
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(xlabel="epoch", ylabel=label(name))
    colours = {"train": ORANGE, "validation": BLUE}
    for stage, course in courses.items():
        few = len(course) < 25
        axes.plot(
            list(course), list(course.values()), color=colours[stage], label=stage,
            linestyle="--" if stage == "train" else "-", marker="o" if few else None, markersize=3,
        )  # fmt: skip
    words = name.replace("_", " ")
    caption = f"{words[0].upper()}{words[1:]} over the epochs of the training"
    course = courses.get("validation", {})
    if course:
        best = (min if lower_is_better(name) else max)(course, key=lambda epoch: course[epoch])
        axes.plot(
            [best], [course[best]], linestyle="none", marker="o", markersize=9, color=BLUE,
            markerfacecolor="none", markeredgewidth=1.4,
        )  # fmt: skip
        caption += f"; validation was best in epoch {best}, with {course[best]:.4g} (the ring)"
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="best")
    return Picture("Learning curves", f"{caption}.", figure)


def _binary_curves(evaluation: Evaluation) -> dict[str, Picture]:
    curves = evaluation.curves
    pictures = {}
    for name, title, columns, x, y in (
        ("roc", "ROC", curves.roc, "false_positive_rate", "true_positive_rate"),
        ("precision_recall", "Precision and recall", curves.precision_recall, "recall",
         "precision"),
    ):  # fmt: skip
        found = _by_class(columns, x, y)
        if not found:
            continue
        figure, axes = new_axes(
            4.4, 3.6, xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), grid="both"
        )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        if evaluation.positive is not None:
            caption = _positive_curve(axes, evaluation, found, roc=name == "roc")
        else:
            caption = _curves_of_classes(axes, evaluation, found, roc=name == "roc")
        pictures[name] = Picture("Two kinds of mistake", f"{title} {caption}", figure)
    return pictures


def _by_class(columns: _Columns, x: str, y: str) -> dict[str, tuple[Any, Any]]:
    """Class -> points of its curve, from left to right, no more than can be seen."""
    names = np.asarray(columns.get("class", []), dtype=object)
    if not len(names):
        return {}
    xs, ys = np.asarray(columns[x], dtype=float), np.asarray(columns[y], dtype=float)
    found = {}
    for name in dict.fromkeys(names.tolist()):
        own = (names == name) & np.isfinite(xs) & np.isfinite(ys)
        across, up = xs[own], ys[own]
        if len(across):
            if across[0] > across[-1]:
                across, up = across[::-1], up[::-1]
            kept = np.argsort(across, kind="stable")[_thinned(len(across))]
            found[str(name)] = (across[kept], up[kept])
    return found


def _thinned(number: int) -> NDArray[np.int64]:
    """Places in a curve of so many points, its ends among them."""
    return np.unique(np.linspace(0, number - 1, min(number, _MOST_POINTS)).round().astype(int))


def _positive_curve(
    axes: Axes, evaluation: Evaluation, found: Mapping[str, tuple[Any, Any]], roc: bool
) -> str:
    """The curve of the positive class, the point where the model decides, and what chance is."""
    positive = evaluation.positive or 0
    figures, confusion = evaluation.classes[positive], evaluation.confusion
    negatives = int(confusion[1 - positive].sum())
    share = figures.support / max(1, figures.support + negatives)
    for across, up in found.values():
        axes.plot(across, up, color=BLUE)
    area = figures.auroc if roc else figures.average_precision
    if roc:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":")
        x = float(confusion[1 - positive, positive]) / max(1, negatives)
        y = figures.recall
        said = "area under the curve"
    else:
        axes.axhline(share, color=INK, linewidth=0.9, linestyle=":")
        x, y, said = figures.recall or 0.0, figures.precision, "average precision"
    if y is not None:
        axes.plot([x], [y], "o", color=ORANGE, markersize=7)
    number = "" if area is None else f", {said} {area:.3f}"
    return (
        f"curve of the class {short(figures.name, 40)}{number}. The dot is where the model "
        "decides, the dotted line is chance."
    )


def _curves_of_classes(
    axes: Axes, evaluation: Evaluation, found: Mapping[str, tuple[Any, Any]], roc: bool
) -> str:
    """Several labels: the mean over classes, and the classes with the least area."""
    areas = {
        figures.name: (figures.auroc if roc else figures.average_precision)
        for figures in evaluation.classes
    }
    weakest = sorted(found, key=lambda name: (areas[name] is None, areas[name] or 0.0))
    colours = (ORANGE, GREEN, PURPLE, INK)
    for place, name in enumerate(weakest[:_MOST_CURVES]):
        area = areas[name]
        axes.plot(
            *found[name], linewidth=1, color=colours[place % 4],
            linestyle=("-", "--", ":")[place // 4 % 3],
            label=label(name, 18) + ("" if area is None else f" {area:.3f}"),
        )  # fmt: skip
    grid = np.linspace(0, 1, 101)
    mean = np.mean([np.interp(grid, *curve) for curve in found.values()], axis=0)
    axes.plot(grid, mean, color=BLUE, linewidth=2.6, label=f"mean of {len(found)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=7.5)
    which = "the classes" if len(found) <= _MOST_CURVES else f"the {_MOST_CURVES} weakest classes"
    said = "area under the curve" if roc else "average precision"
    return f"curves of {which}, with their {said}, and the mean of all."


def _reliability(evaluation: Evaluation) -> dict[str, Picture]:
    bins = {name: np.asarray(found) for name, found in evaluation.curves.reliability.items()}
    if not len(bins.get("num_images", ())):
        return {}
    several = evaluation.predictions.several
    figure, (upper, lower) = _two_axes("probability" if several else "confidence", (3, 1))
    low, width = bins["confidence_low"], bins["confidence_high"] - bins["confidence_low"]
    upper.bar(
        low, bins["accuracy"], width, align="edge", color=BLUE, alpha=0.55, edgecolor=BLUE,
        linewidth=0.8,
    )  # fmt: skip
    upper.plot(bins["confidence"], bins["accuracy"], "o", color=BLUE, markersize=3.5)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":")
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("share that has it" if several else "accuracy")
    lower.bar(low, bins["num_images"], width * 0.92, align="edge", color=INK, alpha=0.45)
    lower.set_ylabel("number")
    total = bins["num_images"].sum()
    gap = float(np.abs(bins["confidence"] - bins["accuracy"]) @ bins["num_images"] / total)
    fitted = evaluation.calibration
    error = f"Expected calibration error {gap:.3f}"
    if "ece_before" in fitted and "ece_after" in fitted:
        error += (
            f"; on the images that the temperature {fitted['temperature']:.3g} was fitted to "
            f"{fitted['ece_before']:.3f} before and {fitted['ece_after']:.3f} after"
        )
    if several:
        caption = (
            "How often an image has a class that the model gives this probability, over all "
            "classes. Bars below the dotted line: the probability is too high."
        )
    else:
        caption = (
            "How often the model is right when it is this sure. Bars below the dotted line: it is "
            "too sure of itself."
        )
    caption += f" {error}."
    return {"reliability": Picture(_TRUST, caption, figure)}


def _two_axes(xlabel: str, heights: tuple[int, int]) -> tuple[Figure, tuple[Axes, Axes]]:
    """One above the other, from 0 to 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9, 3.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    figure.subplots_adjust(hspace=0.12)
    lower.set_xlabel(xlabel)
    lower.set_xlim(-0.01, 1.01)
    for axes in (upper, lower):
        axes.grid(axis="y")
    return figure, (upper, lower)


def _scores(evaluation: Evaluation) -> dict[str, Picture]:
    predictions = evaluation.predictions
    probabilities = predictions.probabilities
    if predictions.several:
        has = predictions.targets.astype(bool)
        groups = {"has the class": probabilities[has], "has it not": probabilities[~has]}
        xlabel = "probability of the class"
        caption = "Probabilities of classes that images have, and of those that they have not."
    else:
        score = probabilities[np.arange(len(predictions)), predictions.predicted]
        right = predictions.correct
        groups = {"right": score[right], "wrong": score[~right]}
        xlabel = "probability of the predicted class"
        caption = "How sure the model is where it is right, and where it is wrong."
    figure, both = _two_axes(xlabel, (1, 1))
    for axes, colour, (name, values) in zip(both, (BLUE, ORANGE), groups.items(), strict=True):
        axes.hist(values, bins=40, range=(0, 1), color=colour, alpha=0.8)
        axes.set_title(f"{name}: {len(values)}", loc="left", color=colour, pad=3)
        axes.set_ylabel("number")
    figure.subplots_adjust(hspace=0.28)
    return {"scores": Picture(_TRUST, f"{caption} Each half has a scale of its own.", figure)}


def _coverage(evaluation: Evaluation) -> dict[str, Picture]:
    columns = {name: np.asarray(found) for name, found in evaluation.curves.coverage.items()}
    if not len(columns.get("coverage", ())):
        return {}
    order = np.argsort(columns["coverage"], kind="stable")
    coverage, accuracy = columns["coverage"][order], columns["accuracy"][order]
    figure, axes = new_axes(
        height=3.6, xlabel="share of images decided", ylabel="share of these right"
    )
    kept = _thinned(len(coverage))
    axes.plot(coverage[kept], accuracy[kept], color=BLUE)
    # The first few images alone jump between 0 and 1.
    settled = accuracy[coverage >= 0.05]
    lowest = float((settled if len(settled) else accuracy).min())
    axes.set_ylim(max(0.0, lowest - 0.05 * (1.02 - lowest) - 0.005), 1.004)
    axes.set_xlim(0, 1.01)
    several = evaluation.predictions.several
    right = "images with every label right" if several else "right answers"
    caption = f"The share of {right} when the model answers only where it is surest."
    below = evaluation.abstain_below
    if below is not None:
        from classifier.evaluation.curves import confidence_of

        decided = confidence_of(evaluation.predictions) >= below
        if decided.any():
            share = float(decided.mean())
            correct = float(evaluation.predictions.correct[decided].mean())
            axes.plot([share], [correct], "o", color=ORANGE, markersize=8)
            caption += (
                f" The dot: with abstain_below {below:g} it decides {share:.1%} of the images, "
                f"{correct:.1%} of them right."
            )
        else:
            caption += f" No probability reaches abstain_below {below:g}."
    return {"coverage": Picture(_TRUST, caption, figure)}
