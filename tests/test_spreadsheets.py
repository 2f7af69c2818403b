"""CSV files that programs read back, and that no spreadsheet runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from classifier.spreadsheets import csv_rows, safe_label, safe_path, write_csv


@pytest.mark.parametrize("text", ["=cmd|' ", "+a", "-a", "@a", "\ta", "\ra", "-1+1", "=1"])
def test_text_is_made_safe_when_it_begins_as_a_formula(text: str) -> None:
    assert (safe_label(text), safe_path(text)) == (f"'{text}", f"./{text}")
    assert safe_label(safe_label(text)) == safe_label(text)
    assert safe_path(safe_path(text)) == safe_path(text)


@pytest.mark.parametrize("text", ["", "a", "a=b", "-5", "+1.5", "-1e-05", "0", "Ж", "w\udcff"])
def test_label_stays_when_it_is_no_formula(text: str) -> None:
    assert safe_label(text) == text


def test_table_holds_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    names = ["class", "=evil", 'a,"b"\nc']
    write_csv(file, names, [["@x", -1.5, None], ["w\udcff", 1 / 3, 2]])
    content = file.read_bytes()
    assert content.endswith(b"\r\n") and b"w\xff" in content
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["class", "'=evil", 'a,"b"\nc'],
            ["'@x", "-1.5", ""],
            ["w\udcff", repr(1 / 3), "2"],
        ]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), csv_rows(tmp_path / "table.csv") as write:
        write(["a"])
        raise KeyError
    assert not list(tmp_path.iterdir())
