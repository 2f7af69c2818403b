"""--compare: runs side by side, without their models. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from classifier.commands.compared_runs import (
    KEY,
    common_stage,
    describe,
    figures_of,
    find_candidates,
)
from classifier.errors import ConfigError
from classifier.evaluation.comparison.candidate import Candidate
from classifier.evaluation.comparison.page import interval, page_of
from classifier.evaluation.comparison.plots import draw_pictures
from classifier.evaluation.comparison.tables import (
    caution,
    config_rows,
    pair_rows,
    run_rows,
    verdicts,
    write_rows,
)
from classifier.evaluation.comparison.verdicts import Comparison, compare
from classifier.evaluation.picture import write_pictures
from classifier.evaluation.reading import read_predictions
from classifier.evaluation.results import Predictions
from classifier.files import write_text
from classifier.runs import Result, Run, create_run
from classifier.terminal import show


def compare_runs(sources: Sequence[str], output: str | None, started: float) -> Result:
    """Compare runs on the images that all of them have.

    Args:
        sources: Run folders, sweep folders or tables of predictions.
        output: Folder that the comparison goes to; None makes runs/compare/<time>/.
        started: time.time() at the start of the command.

    Raises:
        ConfigError: no such run, one without predictions, or runs that cannot be compared.
    """
    candidates = find_candidates(sources)
    stage = common_stage(candidates)
    for one in candidates:
        describe(one, stage)
    predictions = {one.name: _read(one, stage) for one in candidates}
    comparison = compare(predictions)
    images = _told(predictions, comparison, stage)
    run = _open(output, started)
    try:
        _write(run.folder, candidates, comparison, stage, images)
        run.result.status, run.result.num_images = "completed", comparison.num_images
        run.result.report = "report/index.html"
    except BaseException as error:
        run.result.status, run.result.error = "failed", str(error) or type(error).__name__
        raise
    finally:
        run.write_result()
    _print(candidates, comparison, images)
    show(run.folder.as_posix())
    return run.result


def _read(candidate: Candidate, stage: str | None) -> Predictions:
    file = candidate.table(stage)
    predictions = read_predictions(file, figures_of(file).get("task"))
    if not len(predictions):
        raise ConfigError(KEY, f"no image of {file.as_posix()} was predicted", got=candidate.source)
    # Parquet has bytes that are no UTF-8 as escapes: tables of both formats are to meet.
    paths = [
        path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        for path in predictions.paths
    ]
    return replace(predictions, paths=paths)


def _told(predictions: dict[str, Predictions], comparison: Comparison, stage: str | None) -> str:
    """What the runs were compared on."""
    number = comparison.num_images
    told = f"{number} images" + (f" of the {stage} set" if stage else "")
    others = {name: len(run) - number for name, run in predictions.items() if len(run) > number}
    if others:
        listed = ", ".join(f"{name} {count}" for name, count in others.items())
        told += f", which are those that all runs have; left out: {listed}"
    return told


def _open(output: str | None, started: float) -> Run:
    """The folder of the comparison."""
    if output is None:
        run = create_run("compare", "compare", started)
    else:
        folder = Path(output)
        if folder.exists() and (not folder.is_dir() or os.listdir(folder)):
            raise ConfigError(
                "--output", "is there already, and not empty", got=output,
                remedy="Name a new folder, or leave it out for one below runs/compare/",
            )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder, "compare", started)
    show(run.folder.as_posix())
    return run


def _write(
    folder: Path,
    candidates: Sequence[Candidate],
    comparison: Comparison,
    stage: str | None,
    images: str,
) -> None:
    report = folder / "report"
    report.mkdir(exist_ok=True)
    runs, differences = run_rows(candidates, comparison, stage), config_rows(candidates)
    write_rows(folder / "comparison.csv", runs)
    write_rows(folder / "pairs.csv", pair_rows(comparison))
    columns = ["key", *comparison.names]
    write_rows(folder / "config_differences.csv", differences, columns)
    pictures = draw_pictures(candidates, comparison)
    write_pictures(pictures, report)
    page = page_of(comparison, images, runs, differences, pictures)
    write_text(report / "index.html", page)


def _print(candidates: Sequence[Candidate], comparison: Comparison, images: str) -> None:
    """The table and the verdicts."""
    for one in candidates:
        if one.evaluated.as_posix() != Path(one.source).as_posix():
            show(f"{one.name}: predictions of {one.evaluated.as_posix()}")
    show(images)
    lines = [["run", *comparison.metrics]]
    for name, estimates in comparison.estimates.items():
        cells = [f"{one.value:.4f} ({interval(one, '.3f')})" for one in estimates.values()]
        lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        show("  ".join(cells).rstrip())
    for text, _ in verdicts(comparison):
        show(text)
    show(caution(comparison))
