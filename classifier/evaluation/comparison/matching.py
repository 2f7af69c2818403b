"""The images that several runs have in common, and whether the runs can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from classifier.errors import ConfigError
from classifier.evaluation.results import Predictions


def align(runs: Mapping[str, Predictions]) -> list[Predictions]:
    """The images that all runs have, in one order, with the classes in one order.

    Args:
        runs: By name; the first one's order is kept.

    Raises:
        ConfigError: other tasks or classes, no image in common, or another truth.
    """
    (name, first), *others = runs.items()
    for other, run in others:
        _check_classes(name, first, other, run)
    places = [_places(run) for run in runs.values()]
    common = [key for key in places[0] if all(key in place for place in places[1:])]
    if not common:
        other, run = next(
            ((other, run) for (other, run), place in zip(others, places[1:], strict=True)
             if not places[0].keys() & place.keys()), others[0],
        )  # fmt: skip
        raise ConfigError(
            "--compare", f"{name} and {other} have no image in common: {_example(first)} is one "
            f"of {name}, {_example(run)} one of {other}",
            remedy="Compare runs that were evaluated on the same images",
        )  # fmt: skip
    aligned = [
        _chosen(run, [place[key] for key in common], first.class_names)
        for run, place in zip(runs.values(), places, strict=True)
    ]
    for (other, _), run in zip(others, aligned[1:], strict=True):
        _check_truth(name, aligned[0], other, run)
    return aligned


def _example(run: Predictions) -> str:
    return repr(run.paths[0]) if run.paths else "nothing"


def _places(run: Predictions) -> dict[tuple[str, int], int]:
    """(path, how often it stood before) -> row: a table may list an image more than once."""
    seen: dict[str, int] = {}
    places = {}
    for row, path in enumerate(run.paths):
        places[path, seen.setdefault(path, 0)] = row
        seen[path] += 1
    return places


def _check_classes(name: str, first: Predictions, other: str, run: Predictions) -> None:
    if first.task != run.task:
        raise ConfigError(
            "--compare", f"{name} is {first.task}, {other} is {run.task}",
            remedy="Compare runs of one task",
        )  # fmt: skip
    lacking = [label for label in first.class_names if label not in run.class_names]
    further = [label for label in run.class_names if label not in first.class_names]
    if lacking or further:
        parts = [(lacking, name, other), (further, other, name)]
        told = "; ".join(
            f"{', '.join(labels[:10])} only in {here}" for labels, here, _ in parts if labels
        )
        raise ConfigError(
            "--compare", f"{name} and {other} do not have the same classes: {told}",
            remedy="Compare runs of the same classes",
        )  # fmt: skip


def _chosen(run: Predictions, rows: list[int], class_names: tuple[str, ...]) -> Predictions:
    """Some images of a run, with the classes in another order."""
    columns = [run.class_names.index(label) for label in class_names]
    targets, predicted = run.targets[rows], run.predicted[rows]
    if run.several:
        targets, predicted = targets[:, columns], predicted[:, columns]
    else:
        place = np.argsort(columns)
        targets, predicted = place[targets], place[predicted]
    return Predictions(
        class_names, run.task, [run.paths[row] for row in rows],
        run.probabilities[rows][:, columns], targets, predicted,
    )  # fmt: skip


def _check_truth(name: str, first: Predictions, other: str, run: Predictions) -> None:
    differs = np.not_equal(first.targets, run.targets)
    rows = np.flatnonzero(differs.any(axis=1) if run.several else differs)
    if rows.size:
        row = int(rows[0])
        raise ConfigError(
            "--compare", f"the truth of {rows.size} of {len(run)} images is not the same in "
            f"{name} and {other}: {run.paths[row]!r} is {_truth(first, row)} in {name} and "
            f"{_truth(run, row)} in {other}",
            remedy="Evaluate both on the same images with the same labels",
        )  # fmt: skip


def _truth(run: Predictions, row: int) -> str:
    target = run.targets[row]
    if not run.several:
        return run.class_names[int(target)]
    return "|".join(run.class_names[index] for index in np.flatnonzero(target)) or "no label"
