"""report/: an evaluation as tables for programs, and as pictures and one page for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.page import write_page
from classifier.evaluation.picture import write_pictures
from classifier.evaluation.plots import draw
from classifier.evaluation.results import Evaluation
from classifier.evaluation.tables import write_tables
from classifier.evaluation.thumbnails import thumbnails

FOLDER = "report"


def write_report(
    folder: Path,
    evaluations: Sequence[Evaluation],
    load: Callable[[int], NDArray[np.uint8] | None],
    *,
    history: Sequence[Mapping[str, str]] = (),
    facts: Mapping[str, Mapping[str, str]] | None = None,
    config_text: str = "",
    title: str = "",
) -> Path:
    """Write all files of a report, index.html last.

    Args:
        folder: Where they go; made where it is missing.
        evaluations: The one that the report is about, and others whose figures stand beside it.
        load: Row of the first one's predictions -> its image (H, W, 3); None where it is gone.
        history: Rows of metrics.csv.
        facts: Group (data, run, environment) -> what -> text.
        config_text: The resolved configuration.
        title: Name of the experiment.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = evaluations[0]
    write_tables(about, folder)
    pictures = draw(about, history)
    write_pictures(pictures, folder)
    return write_page(
        folder, evaluations, pictures, thumbnails(about, load), facts or {}, config_text, title
    )
