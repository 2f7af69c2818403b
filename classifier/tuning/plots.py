"""Pictures of a sweep: what was tried, what it brought, and which parameters mattered."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from classifier.files import replacing
from classifier.tuning.space import Distribution
from classifier.tuning.study import SweepStudy
from classifier.tuning.trials import DEFAULT, was_interrupted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# Okabe and Ito's palette: told apart by colour-blind readers too.
_BLUE, _ORANGE, _PURPLE = "#0072B2", "#D55E00", "#CC79A7"
_INK, _GREY = "#222222", "#9A9A9A"
_BEST: dict[str, Any]
_BEST = {"color": _ORANGE, "linewidth": 2.5, "alpha": 1.0, "markersize": 5, "zorder": 5}
_LEAST_FOR_IMPORTANCE = 4
_MOST_LABELS = 20
_INCHES = 8.0

Draw = Callable[["Figure", SweepStudy], bool]


def write_plots(study: SweepStudy, folder: Path) -> dict[str, Path]:
    """Draw the study, as far as it has come, as PNG files in a folder that exists.

    Returns:
        Title -> file of what there is to show; nothing as long as no trial is complete.
    """
    from matplotlib.figure import Figure

    if not _complete(study):
        return {}
    plots: dict[str, tuple[str, Draw]] = {
        "History": ("history", _history),
        "Pareto front": ("pareto_front", _pareto_front),
        "Importance of the parameters": ("importance", _importance),
        "Intermediate values": ("intermediate_values", _intermediate_values),
        "Parallel coordinates": ("parallel_coordinates", _parallel_coordinates),
    }
    written = {}
    for title, (name, draw) in plots.items():
        # The figure alone: pyplot would keep state that belongs to the caller's own plots.
        figure = Figure(figsize=(_INCHES, 0.58 * _INCHES))
        if draw(figure, study):
            written[title] = folder / f"{name}.png"
            with replacing(written[title]) as temporary, warnings.catch_warnings():
                # A letter that the font lacks is drawn as a box.
                warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
                figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    return written


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted key -> what tells it apart: `optimizer_config.lr`, `train.1.p`."""
    words = {key: [word for word in key.split(".") if word != "init_args"] for key in keys}
    names = {}
    for key, own in words.items():
        length = min(2, len(own) - 1) or 1
        while length < len(own) and (
            own[-length].isdigit() or sum(o[-length:] == own[-length:] for o in words.values()) > 1
        ):
            length += 1
        names[key] = ".".join(own[-length:])
    return names


def _axes(
    figure: Figure, *, xlabel: str = "", ylabel: str = "", place: tuple[int, int, int] = (1, 1, 1)
) -> Axes:
    axes = figure.add_subplot(*place)
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _complete(study: SweepStudy) -> list[FrozenTrial]:
    return [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _history(figure: Figure, study: SweepStudy) -> bool:
    objectives = study.settings.objectives
    figure.set_figheight(0.4 * _INCHES * (0.4 + len(objectives)))
    complete = _complete(study)
    for index, objective in enumerate(objectives):
        axes = _axes(figure, ylabel=objective.metric, place=(len(objectives), 1, index + 1))
        numbers = [trial.number for trial in complete]
        values = [float(trial.values[index]) for trial in complete]
        axes.scatter(numbers, values, s=26, color=_BLUE, label="complete", zorder=3)
        if len(objectives) == 1:
            best = list(accumulate(values, max if objective.sign > 0 else min))
            axes.step(numbers, best, where="post", color=_ORANGE, label="best so far", zorder=2)
        for trial in complete:
            if trial.user_attrs.get(DEFAULT):
                value = float(trial.values[index])
                axes.axhline(value, color=_GREY, linestyle="--", linewidth=1, label="default")
        _mark_others(axes, study)
        _whole_numbers(axes)
        if index == 0:
            axes.legend(frameon=False, fontsize=9, loc="best")
    axes.set_xlabel("trial")
    return True


def _mark_others(axes: Axes, study: SweepStudy) -> None:
    """Pruned and failed trials have no value: ticks along the lower edge."""
    for state, label, colour, marker in (
        (TrialState.PRUNED, "pruned", _GREY, "|"),
        (TrialState.FAIL, "failed", _PURPLE, "x"),
    ):
        numbers = [
            trial.number
            for trial in study.trials()
            if trial.state is state and not was_interrupted(trial)
        ]
        if numbers:
            axes.scatter(
                numbers, [0.02] * len(numbers), transform=axes.get_xaxis_transform(), s=36,
                color=colour, marker=marker, label=label,
            )  # fmt: skip


def _importance(figure: Figure, study: SweepStudy) -> bool:
    if len(study.settings.objectives) > 1:
        return False
    complete = _complete(study)
    # Trial 0 may lack a parameter, and conditional ones are lacking in many: those are left out.
    params = [
        key
        for key in study.settings.space.parameters
        if sum(key in trial.params for trial in complete) >= max(2, 0.75 * len(complete))
    ]
    different = len({trial.values[0] for trial in complete}) > 1
    if len(complete) < _LEAST_FOR_IMPORTANCE or not params or not different:
        return False
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=0)
    try:
        found = optuna.importance.get_param_importances(
            study.study, evaluator=evaluator, params=params
        )
    except (RuntimeError, ValueError) as error:
        log.info("the importance of the parameters cannot be told: %s", error)
        return False
    names = short_names(list(study.settings.space.parameters))
    figure.set_figheight(0.8 + 0.42 * len(found))
    axes = _axes(figure, xlabel=f"share of the variance of {study.settings.objective.metric}")
    rows = list(reversed(found.items()))
    bars = axes.barh([names[key] for key, _ in rows], [v for _, v in rows], color=_BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_xlim(0, max(1.0, *(value for _, value in rows)) * 1.05)
    axes.grid(visible=False)
    return True


def _intermediate_values(figure: Figure, study: SweepStudy) -> bool:
    axes = _axes(figure, xlabel="epoch", ylabel=study.settings.objective.metric)
    best = study.best()
    styles = {
        TrialState.COMPLETE: (_BLUE, "-", "complete"),
        TrialState.PRUNED: (_GREY, "-", "pruned"),
        TrialState.FAIL: (_PURPLE, "--", "failed"),
    }
    labelled = set()
    style: dict[str, Any]
    faint = max(0.08, min(0.55, 30 / len(study.trials())))
    for trial in study.trials():
        course = sorted(trial.intermediate_values.items())
        if not course or trial.state not in styles or was_interrupted(trial):
            continue
        colour, line, label = styles[trial.state]
        style = {"color": colour, "linewidth": 1.2, "alpha": faint, "markersize": 2.5}
        if best is not None and trial.number == best.number:
            style, label = _BEST, f"best (trial {trial.number})"
        axes.plot(
            [epoch + 1 for epoch, _ in course], [value for _, value in course],
            linestyle=line, marker="o", label=None if label in labelled else label, **style,
        )  # fmt: skip
        labelled.add(label)
    if not axes.lines:
        return False
    _whole_numbers(axes)
    axes.legend(frameon=False, fontsize=9)
    return True


def _pareto_front(figure: Figure, study: SweepStudy) -> bool:
    objectives = study.settings.objectives
    pairs = list(combinations(range(len(objectives)), 2))
    if not pairs:
        return False
    figure.set_figheight(0.55 * _INCHES * len(pairs))
    figure.subplots_adjust(hspace=0.35)
    front = {trial.number for trial in study.study.best_trials}
    for place, (first, second) in enumerate(pairs):
        axes = _axes(
            figure, xlabel=objectives[first].metric, ylabel=objectives[second].metric,
            place=(len(pairs), 1, place + 1),
        )  # fmt: skip
        for trial in _complete(study):
            x, y = float(trial.values[first]), float(trial.values[second])
            on_front = trial.number in front
            axes.scatter(x, y, s=44 if on_front else 22, color=_ORANGE if on_front else _GREY)
            if on_front and len(front) <= _MOST_LABELS:
                axes.annotate(
                    str(trial.number), (x, y), xytext=(5, 4), textcoords="offset points",
                    fontsize=9,
                )  # fmt: skip
        axes.set_title("orange: no other trial is better in every objective", fontsize=9)
    return True


def _parallel_coordinates(figure: Figure, study: SweepStudy) -> bool:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    complete = _complete(study)
    searched = study.settings.space.parameters
    keys = [key for key in searched if any(key in trial.params for trial in complete)]
    if not keys:
        return False
    spaces = {key: searched[key].distribution for key in keys}
    values = [float(trial.values[0]) for trial in complete]
    scale = Normalize(min(values), max(values))
    objective = study.settings.objective
    # The better, the darker.
    colours = colormaps["viridis_r" if objective.sign > 0 else "viridis"]
    figure.set_figwidth(max(_INCHES, 1.7 * len(keys)))
    axes = _axes(figure)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    best = study.best()
    faint = max(0.15, min(0.65, 60 / len(complete)))
    ranked = sorted(zip(complete, values, strict=True), key=lambda pair: objective.sign * pair[1])
    style: dict[str, Any]
    for trial, value in ranked:
        style = {"color": colours(scale(value)), "linewidth": 1.1, "alpha": faint, "markersize": 3}
        label = None
        if best is not None and trial.number == best.number:
            style, label = _BEST, f"best (trial {trial.number})"
        heights = [
            _height(found, trial.params[key]) if key in trial.params else math.nan
            for key, found in spaces.items()
        ]
        axes.plot(range(len(keys)), heights, marker="o", label=label, **style)
    _coordinate_axes(axes, short_names(list(searched)), spaces)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.09)
    bar.set_label(objective.metric)
    if best is not None:
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1.1))
    return True


def _coordinate_axes(
    axes: Axes, names: Mapping[str, str], spaces: Mapping[str, Distribution]
) -> None:
    labels = ["\n".join(names[key].rsplit(".", 1)) for key in spaces]
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(labels) - 0.85)
    axes.set_ylim(-0.04, 1.04)
    for place, found in enumerate(spaces.values()):
        axes.axvline(place, color="#BBBBBB", linewidth=1, zorder=1)
        for told, height in _ticks(found).items():
            axes.annotate(
                told, (place, height), xytext=(6, 0), textcoords="offset points", fontsize=8,
                va="center", color=_INK, zorder=6,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip


def _ticks(found: Distribution) -> dict[str, float]:
    """What is written along a parameter's axis -> its height."""
    if isinstance(found, CategoricalDistribution):
        edges: Sequence[Any] = found.choices
    else:
        middle = math.sqrt(found.low * found.high) if found.log else (found.low + found.high) / 2
        edges = [found.low, middle, found.high]
    return {
        f"{edge:.3g}" if isinstance(edge, float) else _plain(edge): _height(found, edge)
        for edge in edges
    }


def _plain(choice: Any) -> str:
    """A choice as a label: short, and without what matplotlib takes for a formula."""
    return str(choice)[:24].replace("$", r"\$")


def _height(found: Distribution, value: Any) -> float:
    """Where a value lies on its parameter's axis, from 0 to 1."""
    if isinstance(found, CategoricalDistribution):
        return found.choices.index(value) / max(1, len(found.choices) - 1)
    low, high, here = float(found.low), float(found.high), float(value)
    if found.log:
        low, high, here = math.log(low), math.log(high), math.log(here)
    return (here - low) / (high - low) if high > low else 0.5
