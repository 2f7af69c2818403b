"""The table of predictions, read back: what the figures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.errors import ConfigError
from classifier.evaluation.results import MULTILABEL, Predictions

SEPARATOR = "|"  # between the labels of an image
_PREFIX = "prob_"
_TEXT = ("path", "index", "error", "target")


def read_predictions(
    file: Path, task: str, class_names: Sequence[str] | None = None
) -> Predictions:
    """Read a table of predictions whose truth is known.

    Args:
        file: predictions.csv or predictions.parquet as this program writes it.
        task: multiclass or multilabel.
        class_names: None takes them from the columns.

    Raises:
        ConfigError: no such table, or one without truth or probabilities.
    """
    table = _read(file)
    names = [name.removeprefix(_PREFIX) for name in table.columns if name.startswith(_PREFIX)]
    if "target" not in table.columns or not names:
        raise ConfigError(
            str(file), "holds no predictions with their truth",
            remedy="Give the predictions.csv of --test or --val",
        )  # fmt: skip
    if class_names is not None and list(class_names) != names:
        raise ConfigError(
            str(file), f"has the classes {', '.join(names)}, expected {', '.join(class_names)}"
        )
    bad = (table["error"] != "").to_numpy()
    failed = list(zip(table["path"][bad], table["error"][bad], strict=True))
    good = table[~bad]
    columns = [f"{_PREFIX}{name}" for name in names]
    several = task == MULTILABEL
    return Predictions(
        class_names=tuple(names),
        task=task,
        paths=list(good["path"]),
        probabilities=np.array(good[columns], dtype=np.float64),  # pandas' own may be read-only
        targets=_classes(good["target"], len(names), several=several),
        predicted=_classes(good["index"], len(names), several=several),
        failed=failed,
    )


def _read(file: Path) -> Any:
    import pandas as pd

    if file.suffix == ".parquet":
        return _as_in_csv(pd.read_parquet(file))
    header = pd.read_csv(file, nrows=0, encoding_errors="surrogateescape").columns
    numbers = [name for name in header if name.startswith(_PREFIX)]
    return pd.read_csv(
        file,
        usecols=[name for name in header if name in _TEXT or name in numbers],
        dtype=dict.fromkeys(_TEXT, str) | dict.fromkeys(numbers, np.float64),
        keep_default_na=False,
        na_values={name: ["", "nan"] for name in numbers},
        encoding_errors="surrogateescape",
    )


def _as_in_csv(table: Any) -> Any:
    """A parquet table with the texts that predictions.csv has in its place."""
    for name in (name for name in _TEXT if name in table.columns):
        several = name in ("index", "target")
        table[name] = [_text(value, whole=several) for value in table[name]]
    return table


def _text(value: Any, *, whole: bool) -> str:
    if isinstance(value, np.ndarray):
        return SEPARATOR.join(map(str, value))
    if value is None or value != value:  # nan
        return ""
    return str(int(value) if whole else value)


def _classes(cells: Any, num_classes: int, *, several: bool) -> Any:
    """(N,) indices; of several labels (N, C) bool."""
    if not several:
        return cells.to_numpy(dtype=str).astype(np.int64)
    present = np.zeros((len(cells), num_classes), dtype=bool)
    for row, cell in enumerate(cells):
        for index in cell.split(SEPARATOR) if cell else ():
            present[row, int(index)] = True
    return present
