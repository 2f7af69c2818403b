"""Pictures of an evaluation, class by class: what is taken for what, and how good each class is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.picture import BLUE, INK, ORANGE, PURPLE, Picture, label, new_axes
from classifier.evaluation.results import ClassFigures, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BARS = 30
_MOST_CELLS = 300  # classes that the matrix can show; of more it shows the most confused
_FEWER_CELLS = 100
_MOST_TEXTS = 20  # classes up to which each cell holds its number
_MOST_TICKS = 60  # classes up to which each has its name at the edge


def class_pictures(evaluation: Evaluation) -> dict[str, Picture]:
    """The confusions and the figures of each class."""
    confusions = _decisions if evaluation.predictions.several else _confusion
    return {"confusion": confusions(evaluation), **_per_class(evaluation)}


def clustered(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of the classes in which those that are confused with each other are neighbours.

    Hierarchical clustering by average linkage, with the leaves in the optimal order.

    Args:
        confusion: (C, C) images by truth and prediction.

    Returns:
        (C,) class indices.

    Source: Bar-Joseph et al., Fast optimal leaf ordering for hierarchical clustering, 2001.
    """
    number = len(confusion)
    shares = _shares(confusion)
    np.fill_diagonal(shares, 0.0)
    both = shares + shares.T
    if number < 4 or not both.any():
        return np.arange(number)
    from scipy.cluster.hierarchy import leaves_list, linkage

    # A pair that is confused twice as often is not twice as near: the root keeps rare pairs apart.
    distances = 1.0 - np.sqrt(both / both.max())
    tree = linkage(distances[np.triu_indices(number, 1)], "average", optimal_ordering=True)
    order: NDArray[np.int64] = leaves_list(tree).astype(np.int64)
    # Of the two directions the one that is nearer to the order of the classes.
    return order[::-1] if order[0] > order[-1] else order


def _shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row as shares of its images."""
    return np.asarray(confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True)))


def _confusion(evaluation: Evaluation) -> Picture:
    confusion, names = evaluation.confusion, evaluation.predictions.class_names
    chosen = np.arange(len(confusion))
    left_out = ""
    if len(confusion) > _MOST_CELLS:
        wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
        chosen = np.sort(np.argsort(-wrong)[:_FEWER_CELLS])
        left_out = f" Only the {_FEWER_CELLS} most confused of {len(confusion)} classes are shown."
    # Shares of all images of a class, also where some of its columns are not shown.
    shares = _shares(confusion[chosen])[:, chosen]
    confusion = confusion[np.ix_(chosen, chosen)]
    order = clustered(confusion)
    shares, confusion = shares[np.ix_(order, order)], confusion[np.ix_(order, order)]
    number = len(confusion)
    # Up to four classes a cell holds two lines.
    side = 1.9 + 0.35 * number if number <= 4 else float(np.clip(0.52 * number, 3.3, 6.5))
    figure, axes = new_axes(side, side, xlabel="predicted", ylabel="truth", grid="")
    axes.set_position((0, 0, 1, 1))
    cells = _cells(shares)
    axes.imshow(cells, interpolation="none")
    axes.spines[["top", "right"]].set_visible(True)
    _name_rows(axes, [label(names[i], 18) for i in chosen[order]])
    if number <= _MOST_TEXTS:
        _write_counts(axes, confusion, shares, cells[..., 3])
    if number <= _MOST_TICKS:
        edges = np.arange(number + 1) - 0.5
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", linewidth=0.5)
    caption = (
        "Rows are the truth, columns the prediction. The stronger the colour, the larger the share "
        "of the row's images: blue is right, orange is wrong, in stronger shades so that rare "
        "mistakes are seen."
    )
    if number > 3:
        caption += " Classes that are confused with each other are neighbours."
    return Picture("What is taken for what", caption + left_out, figure, wide=number > 6)


def _cells(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, C, 4): the share is the opacity, so that nothing is the colour of the page."""
    wrong, right = _channels(ORANGE), _channels(BLUE)
    number = len(shares)
    cells = np.empty((number, number, 4))
    cells[..., :3], cells[..., 3] = wrong, np.sqrt(shares)
    own = np.arange(number)
    cells[own, own, :3], cells[own, own, 3] = right, shares[own, own]
    return cells


def _channels(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def _name_rows(axes: Axes, names: list[str]) -> None:
    number = len(names)
    step = -(-number // _MOST_TICKS)
    places = list(range(0, number, step))
    size = 8.5 if number <= 20 else 6.5 if number <= 40 else 5.0
    axes.set_yticks(places, [names[i] for i in places], fontsize=size)
    longest = max(len(name) for name in names)
    if number <= 3 and longest <= 12:
        axes.set_xticks(places, [names[i] for i in places], fontsize=size)
        return
    steep = number > 12
    axes.set_xticks(
        places, [names[i] for i in places], fontsize=size, rotation=90 if steep else 45,
        ha="right", va="center" if steep else "top", rotation_mode="anchor",
    )  # fmt: skip


def _write_counts(
    axes: Axes, confusion: Any, shares: NDArray[np.float64], opacity: NDArray[np.float64]
) -> None:
    number = len(confusion)
    size = 11 if number <= 4 else 8.5 if number <= 12 else 6.5
    for row, column in zip(*np.nonzero(confusion), strict=True):
        text = str(confusion[row, column])
        if number <= 4:
            text += f"\n{shares[row, column]:.1%}"
        axes.text(
            column, row, text, ha="center", va="center", fontsize=size,
            color="white" if opacity[row, column] > 0.8 else INK,
        )  # fmt: skip


def _decisions(evaluation: Evaluation) -> Picture:
    """Several labels: found, missed and wrongly given, a bar a class."""
    names, confusion = evaluation.predictions.class_names, evaluation.confusion
    missed, given = confusion[:, 1, 0], confusion[:, 0, 1]
    rows = np.argsort(-(missed + given), kind="stable")[:_MOST_BARS]
    figure, axes = new_axes(6.4, 0.8 + 0.27 * len(rows), xlabel="images", grid="x")
    places = np.arange(len(rows))
    found = confusion[rows, 1, 1]
    axes.barh(places, found, color=BLUE, label="found")
    axes.barh(places, missed[rows], left=found, color=ORANGE, label="missed")
    axes.barh(places, -given[rows], color=PURPLE, label="wrongly given")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(places, [label(names[i]) for i in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    few = len(rows) == len(names)
    which = "Each class" if few else f"The {len(rows)} classes with the most mistakes"
    caption = (
        f"{which}, most mistakes first: to the right the images that have it, to the left those "
        "that were given it and do not have it."
    )
    return Picture("What is found and what is missed", caption, figure, wide=True)


def _per_class(evaluation: Evaluation) -> dict[str, Picture]:
    seen = [figures for figures in evaluation.classes if figures.f1_score is not None]
    if not seen:
        return {}
    ranked = sorted(seen, key=lambda figures: figures.f1_score or 0.0)
    pictures = {"per_class": _bars(ranked[:_MOST_BARS], of=len(ranked))}
    if len(ranked) > _MOST_BARS:
        pictures["f1_scores"] = _histogram(ranked)
    return pictures


def _bars(ranked: list[ClassFigures], of: int) -> Picture:
    """F1 as a bar, recall and precision as marks on it."""
    figure, axes = new_axes(4.4, 0.8 + 0.25 * len(ranked), grid="x")
    places = np.arange(len(ranked))
    axes.barh(places, [f.f1_score or 0.0 for f in ranked], color=BLUE, alpha=0.4, label="F1")
    axes.plot(
        [f.recall or 0.0 for f in ranked], places, "o", color=BLUE, markersize=5, label="recall"
    )
    axes.plot(
        [f.precision for f in ranked], places, "D", color=ORANGE, markersize=4.5, label="precision",
        markerfacecolor="none", markeredgewidth=1.3,
    )  # fmt: skip
    axes.set_yticks(places, [label(f.name) for f in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    which = "Classes" if len(ranked) == of else f"The weakest {len(ranked)} of {of} classes"
    caption = (
        f"{which}, weakest first. Recall: the share of a class's images that were found; "
        "precision: the share of what was taken for it that is it; F1: their harmonic mean."
    )
    return Picture("Class by class", caption, figure)


def _histogram(ranked: list[ClassFigures]) -> Picture:
    scores = np.array([figures.f1_score or 0.0 for figures in ranked])
    figure, axes = new_axes(xlabel="F1", ylabel="classes")
    axes.hist(scores, bins=20, range=(0, 1), color=BLUE, alpha=0.7)
    axes.axvline(float(np.median(scores)), color=ORANGE, linewidth=1.5)
    axes.set_xlim(0, 1.01)
    caption = f"F1 of all {len(scores)} classes; the line is their median, {np.median(scores):.3f}."
    return Picture("Class by class", caption, figure)
