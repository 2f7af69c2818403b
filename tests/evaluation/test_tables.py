"""The tables of report/: names in them are text, whatever they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from classifier.evaluation.tables import write_tables
from tests.evaluation.making import make, make_several

NAMES = ("=cmd|' /C calc'!A0", "+1+1", "-2+3")


@pytest.mark.parametrize("maker", [make, make_several])
def test_no_cell_is_a_formula_when_classes_are_named_so(maker: Any, tmp_path: Path) -> None:
    write_tables(maker(NAMES, 200), tmp_path)
    tables = sorted(tmp_path.glob("*.csv"))
    assert {"per_class.csv", "confusion.csv", "errors.csv", "most_confused.csv"} <= {
        file.name for file in tables
    }
    for file in tables:
        with file.open(encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))], file.name
    classes = (tmp_path / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in classes[1:]] == [f"'{name}" for name in NAMES]
