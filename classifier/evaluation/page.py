"""report/index.html: an evaluation on one page that carries all that it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from classifier.evaluation.picture import Picture, plain, short
from classifier.evaluation.plots import lower_is_better
from classifier.evaluation.results import ClassFigures, Estimate, Evaluation
from classifier.evaluation.template import TEMPLATE
from classifier.evaluation.thumbnails import Thumbnail
from classifier.files import write_text
from classifier.page import data_uri, render

_MOST_PAIRS = 12
_MOST_NAMED = 20
_MOST_ROWS = 30  # classes up to which the table is open
_LONGEST_NAME = 60
_SHORT_FORMS = {"f1": "F1", "auroc": "AUROC", "ece": "ECE", "mcc": "MCC"}
_OF_THE_RUN = (
    "predictions.csv", "predictions.parquet", "metrics.csv", "result.json", "config.yaml",
    "README.md", "log.txt",
)  # fmt: skip
_KINDS = {".csv", ".json", ".png", ".html", ".parquet", ".yaml"}


def write_page(
    folder: Path,
    evaluations: Sequence[Evaluation],
    pictures: Mapping[str, Picture],
    thumbnails: Sequence[Thumbnail],
    facts: Mapping[str, Mapping[str, str]],
    config_text: str,
    title: str,
) -> Path:
    """Write index.html, after all other files: it links to those that lie beside it.

    Args:
        folder: Where it goes; there already.
        evaluations: The one that the page is about, and others whose figures stand beside its own.
        pictures: Of the first, in the order of the page, by the names of their PNG files.
        thumbnails: Of the first.
        facts: Group (data, run, environment) -> what -> text.
        config_text: The resolved configuration; may be empty.
        title: Name of the experiment.
    """
    about = evaluations[0]
    text = render(
        TEMPLATE,
        title=plain(title),
        stage=about.stage,
        verdict=verdict(about),
        notes=list(_notes(evaluations)),
        headline=_headline(evaluations),
        sections=[
            _section(heading, list(group), about, folder)
            for heading, group in groupby(pictures.items(), key=lambda item: item[1].title)
        ],
        thumbnails=[_shown(thumbnail) for thumbnail in thumbnails],
        num_errors=int((~about.predictions.correct).sum()),
        facts={
            group: {plain(name): plain(text) for name, text in rows.items()}
            for group, rows in facts.items()
            if rows
        },
        config_text=config_text.encode("utf-8", "replace").decode(),
        files=list(_files(folder)),
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def verdict(evaluation: Evaluation) -> str:
    """What the evaluation comes to, in one sentence."""
    number = len(evaluation.predictions)
    images = f"{number} {evaluation.stage} image{'s' * (number != 1)}"
    if not number or not evaluation.estimates:
        return f"There is nothing to say of {images}."
    name, estimate = next(iter(evaluation.estimates.items()))
    words = _words(name)
    sentence = f"{words[0].upper()}{words[1:]} {estimate.value:.3f}"
    if estimate.low is not None and estimate.high is not None:
        sentence += f" (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"
    sentence += f" on {images}"
    seen = [figures for figures in evaluation.classes if figures.f1_score is not None]
    if len(seen) > 1:
        weakest = min(seen, key=lambda figures: figures.f1_score or 0.0)
        sentence += f"; weakest class: {short(weakest.name, _LONGEST_NAME)}"
        sentence += f" (F1 {weakest.f1_score:.3f}, recall {weakest.recall or 0.0:.3f})"
    return f"{sentence}."


def _words(name: str) -> str:
    """A metric's name as people write it."""
    return " ".join(_SHORT_FORMS.get(word, word) for word in plain(name).split("_"))


def _notes(evaluations: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Tuned thresholds, classes without images, and images that could not be decoded."""
    tuned = thresholds_in_words(evaluations[0].calibration)
    if tuned:
        yield {"text": tuned, "lines": []}
    for evaluation in evaluations:
        absent, failed = evaluation.absent, evaluation.predictions.failed
        if absent:
            names = ", ".join(short(name, _LONGEST_NAME) for name in absent[:_MOST_NAMED])
            more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
            yield {
                "text": f"No {evaluation.stage} images of {names}{more}: in no average.",
                "lines": [],
            }
        if failed:
            one = len(failed) == 1
            lines = [f"{plain(path)}: {plain(why)}" for path, why in failed[:_MOST_NAMED]]
            if len(failed) > _MOST_NAMED:
                lines.append(f"... and {len(failed) - _MOST_NAMED} more, see the predictions")
            yield {
                "text": f"{len(failed)} {evaluation.stage} image{'s' * (not one)} could not be "
                f"decoded and {'is' if one else 'are'} in no figure.",
                "lines": lines,
            }


def thresholds_in_words(fitted: Mapping[str, Any]) -> str:
    """What the tuning of thresholds came to, in a sentence; empty where there was none.

    Args:
        fitted: What a calibration came to.
    """
    if not fitted.get("tuned_for"):
        return ""
    found = fitted.get("thresholds") or {}
    named = ", ".join(
        f"{short(n, _LONGEST_NAME)} {v:.3f}" for n, v in list(found.items())[:_MOST_NAMED]
    )
    text = f"Decision thresholds were chosen for {fitted['tuned_for']} on the validation images"
    if fitted.get("score_before") is not None and fitted.get("score_after") is not None:
        text += f" ({fitted['score_before']:.3f} before, {fitted['score_after']:.3f} after)"
    return f"{text}: {named}." if named else f"{text}: none differs."


def _headline(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """A row a figure, two cells a stage; and where the first's intervals lie, drawn to scale."""
    ranges = {
        name: estimate
        for name, estimate in evaluations[0].estimates.items()
        if estimate.low is not None and not lower_is_better(name)
    }
    # Most figures are near 1: the scale begins at a tenth below the lowest.
    lowest = min((estimate.low or 0.0 for estimate in ranges.values()), default=0.0)
    start = min(max(0.0, math.floor(10 * lowest) / 10), 0.9)

    def rows(kind: str) -> list[dict[str, Any]]:
        names = dict.fromkeys(name for found in evaluations for name in getattr(found, kind))
        return [
            {
                "name": _words(name),
                "cells": [_cell(found, name) for found in evaluations],
                "range": _range(ranges.get(name), start),
            }
            for name in names
        ]

    return {
        "columns": [f"{found.stage}, {len(found.predictions)} images" for found in evaluations],
        "rows": rows("estimates"),
        "further": rows("figures"),
        "scale": f"{start:.1f} to 1" if ranges else "",
    }


def _cell(evaluation: Evaluation, name: str) -> dict[str, str]:
    estimate = evaluation.estimates.get(name)
    if estimate is None:
        value = evaluation.figures.get(name)
        return {"value": "" if value is None else f"{value:.3f}", "interval": ""}
    known = estimate.low is not None and estimate.high is not None
    return {
        "value": f"{estimate.value:.3f}",
        "interval": f"({estimate.low:.3f} to {estimate.high:.3f})" if known else "",
    }


def _range(estimate: Estimate | None, start: float) -> dict[str, float] | None:
    """An interval on a line of 100 that goes from `start` to 1."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    ends = {"low": estimate.low, "value": estimate.value, "high": estimate.high}
    if not all(start <= end <= 1 for end in ends.values()):
        return None
    return {name: round(100 * (end - start) / (1 - start), 2) for name, end in ends.items()}


def _section(
    heading: str, group: Sequence[tuple[str, Picture]], about: Evaluation, folder: Path
) -> dict[str, Any]:
    names = [name for name, _ in group]
    pairs = _pairs(about) if "confusion" in names and not about.predictions.several else []
    classes = _rows(about.classes) if "per_class" in names else []
    folded = len(classes) > _MOST_ROWS
    return {
        "title": heading,
        "pictures": [
            {
                "svg": picture.svg(name),
                "caption": picture.caption,
                "wide": picture.wide,
                "file": f"{name}.png" if (folder / f"{name}.png").is_file() else "",
            }
            for name, picture in group
        ],
        "pairs": pairs,
        "classes": classes,
        "columns": _columns(about.classes),
        "folded": folded,
        "beside": bool(pairs or classes),
    }


def _pairs(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The most frequent confusions, by number and then by share of the class."""
    confusion, names = evaluation.confusion, evaluation.predictions.class_names
    rows, columns = np.nonzero(confusion)
    wrong = rows != columns
    rows, columns = rows[wrong], columns[wrong]
    counts, support = confusion[rows, columns], confusion.sum(axis=1)
    shares = counts / support[rows]
    order = np.lexsort((-shares, -counts))[:_MOST_PAIRS]
    return [
        {
            "truth": short(names[rows[i]], _LONGEST_NAME),
            "prediction": short(names[columns[i]], _LONGEST_NAME),
            "count": int(counts[i]),
            "share": f"{shares[i]:.1%}",
            "width": round(100 * float(shares[i]), 1),
        }
        for i in order
    ]


_SHARES = ("precision", "recall", "f1_score", "auroc", "average_precision", "threshold")


def _columns(classes: Sequence[ClassFigures]) -> list[str]:
    short_names = {"average_precision": "AP", "f1_score": "F1"}
    known = [short_names.get(name, _words(name)) for name in _known(classes)]
    return ["images", "predicted", *known]


def _known(classes: Sequence[ClassFigures]) -> list[str]:
    return [name for name in _SHARES if any(getattr(f, name) is not None for f in classes)]


def _rows(classes: Sequence[ClassFigures]) -> list[dict[str, Any]]:
    """A row a class, weakest first; those without images last."""
    ranked = sorted(classes, key=lambda f: 2.0 if f.f1_score is None else f.f1_score)
    known = _known(classes)

    def share(value: float | None, name: str) -> dict[str, Any]:
        if value is None:
            return {"text": "", "width": None}
        return {
            "text": f"{value:.3f}",
            "width": round(100 * value, 1) if name != "threshold" else None,
        }

    return [
        {
            "name": short(figures.name, _LONGEST_NAME),
            "cells": [
                {"text": figures.support, "width": None},
                {"text": figures.predicted, "width": None},
                *(share(getattr(figures, name), name) for name in known),
            ],
        }
        for figures in ranked
    ]


def _shown(thumbnail: Thumbnail) -> dict[str, Any]:
    def number(score: float | None) -> str:
        return "" if score is None else f"{score:.3f}"

    return {
        "path": plain(thumbnail.path).split("/"),  # where its line may be broken
        "truth": short(thumbnail.truth, _LONGEST_NAME),
        "prediction": short(thumbnail.prediction, _LONGEST_NAME),
        "score": number(thumbnail.score),
        "truth_score": number(thumbnail.truth_score),
        "source": data_uri(thumbnail.jpeg, "image/jpeg") if thumbnail.jpeg else "",
    }


def _files(folder: Path) -> Iterator[dict[str, str]]:
    """What lies beside the page, in folders of it, and the run's own tables above it."""
    here = [file for file in sorted(folder.iterdir()) if file.name != "index.html"]
    below = [file for sub in here if sub.is_dir() for file in sorted(sub.iterdir())]
    for file in [*here, *below]:
        if file.is_file() and file.suffix in _KINDS and not file.name.startswith("."):
            name = file.relative_to(folder).as_posix()
            yield {"name": plain(name), "address": quote(name)}
    for name in _OF_THE_RUN:
        if (folder.parent / name).is_file():
            yield {"name": f"../{name}", "address": f"../{name}"}
