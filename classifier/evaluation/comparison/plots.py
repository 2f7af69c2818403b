"""Pictures of a comparison: figures with their intervals, differences, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from classifier.evaluation.comparison.candidate import Candidate
from classifier.evaluation.comparison.verdicts import LOWER_IS_BETTER, Comparison
from classifier.evaluation.picture import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    Picture,
    label,
    new_axes,
    style,
)
from classifier.evaluation.results import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, INK)
_DASHES = ("-", "--", ":", "-.")
_INCHES = 8.0
_ROW = 0.3  # inches of a run in a picture
_MOST_PAIRS = 45
_LONGEST_NAME = 36


def draw_pictures(candidates: Sequence[Candidate], comparison: Comparison) -> dict[str, Picture]:
    """File name, without its ending -> what there is to show of a comparison."""
    with style():
        pictures = {
            "figures": _figures(comparison),
            "differences": _differences(comparison),
            "learning_curves": _learning_curves(candidates),
        }
    return {name: picture for name, picture in pictures.items() if picture is not None}


def _panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """Axes side by side in pairs, each so many inches high."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(2, number)
    rows = -(-number // columns)
    # The figure alone: pyplot would keep state that belongs to the caller's own plots.
    figure = Figure(figsize=(_INCHES, height * rows), layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in axes[number:]:
        empty.set_axis_off()
    return figure, axes[:number]


def _figures(comparison: Comparison) -> Picture:
    """A panel for each metric, a dot and its interval for each run."""
    names = comparison.names
    figure, panels = _panels(len(comparison.metrics), 0.75 + _ROW * len(names))
    for number, (axes, metric) in enumerate(zip(panels, comparison.metrics, strict=True)):
        for place, name in enumerate(names):
            colour = _COLOURS[place % len(_COLOURS)]
            _interval(axes, place, comparison.estimates[name][metric], colour)
        hint = " (lower is better)" if metric in LOWER_IS_BETTER else ""
        axes.set_title(f"{metric}{hint}", loc="left")
        axes.grid(axis="x")
        _name_rows(axes, [label(name, _LONGEST_NAME) for name in names])
        if number % 2:
            axes.tick_params(labelleft=False)
    _laid_out(figure)
    caption = (
        "Each run on the same images, with its own 95 % interval. Two of these may overlap where "
        "the difference is beyond doubt: what is hard for one run is hard for the other, too."
    )
    return Picture("Figures with their intervals", caption, figure)


def _laid_out(figure: Figure) -> None:
    """Give everything its place now: a picture measures its figure before it draws it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _interval(axes: Axes, place: int, estimate: Estimate, colour: str, alpha: float = 1.0) -> None:
    assert estimate.low is not None and estimate.high is not None
    axes.hlines(place, estimate.low, estimate.high, color=colour, linewidth=2, alpha=alpha)
    axes.plot([estimate.value], [place], "o", color=colour, markersize=5.5, alpha=alpha)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _differences(comparison: Comparison) -> Picture | None:
    """Every pair on the most important metric, against zero."""
    metric = comparison.metrics[0]
    differences = [one for one in comparison.differences if one.metric == metric]
    if len(differences) > _MOST_PAIRS:
        return None
    figure, axes = new_axes(
        _INCHES, 0.8 + _ROW * len(differences), xlabel=f"difference of {metric}", grid="x"
    )
    axes.axvline(0, color=INK, linewidth=1, linestyle="--", alpha=0.6)
    for place, one in enumerate(differences):
        if one.better is None:
            _interval(axes, place, one.estimate, INK, alpha=0.45)
        else:
            _interval(axes, place, one.estimate, BLUE)
    longest = _LONGEST_NAME * 2 // 3
    _name_rows(
        axes,
        [f"{label(one.first, longest)} minus {label(one.second, longest)}" for one in differences],
    )  # fmt: skip
    shown = [f"{one.better}" for one in differences if one.better is not None]
    caption = (
        f"The difference of {metric} in each pair, with the interval that holds for all pairs "
        f"together: blue where it excludes zero ({len(shown)} of {len(differences)}), grey where "
        "no difference is shown."
    )
    return Picture(f"Differences of {metric}", caption, figure)


def _learning_curves(candidates: Sequence[Candidate]) -> Picture | None:
    """Losses and the metrics that chose the checkpoints, of all trainings in one picture."""
    from matplotlib.ticker import MaxNLocator

    trainings = {one.training: one for one in candidates if one.training and one.history}
    monitors = [str(one.result.get("monitor")) for one in trainings.values()]
    columns = [
        column
        for column in dict.fromkeys(["train_loss", "validation_loss", *monitors])
        if any(one.series(column)[0] for one in trainings.values())
    ]
    if not columns:
        return None
    figure, panels = _panels(len(columns), 2.5)
    figure.set_figheight(figure.get_figheight() + 0.2 * len(trainings))
    places = {one.training: place for place, one in enumerate(candidates)}
    for axes, column in zip(panels, columns, strict=True):
        for training, one in trainings.items():
            epochs, values = one.series(column)
            place = places[training]
            axes.plot(
                epochs, values, _DASHES[place // len(_COLOURS) % len(_DASHES)],
                color=_COLOURS[place % len(_COLOURS)], label=label(one.name, _LONGEST_NAME),
                marker="o" if len(epochs) < 2 else None, markersize=4,
            )  # fmt: skip
        axes.set_title(column, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=1 + (len(labels) > 4))
    _laid_out(figure)
    caption = "Losses, and the metric that chose the best checkpoint, after each epoch."
    return Picture("Learning curves", caption, figure)
