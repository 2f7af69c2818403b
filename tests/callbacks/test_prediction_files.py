"""The files of predictions: formats agree, names are safe, nothing half written."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from classifier.callbacks.prediction_files import (
    _GROUP_ROWS,
    Write,
    _folder_name,
    _free_file,
    check_format,
    csv_table,
    image_files,
    parquet_table,
)
from classifier.callbacks.prediction_rows import Answer, Layout, Row, columns_of
from classifier.errors import ConfigError

NAMES = ["blue", "=green", "red"]
Table = Callable[[Path, Layout], AbstractContextManager[Write]]


def layout(**more: Any) -> Layout:
    given: dict[str, Any] = {"several": False, "num_ranks": 3, "with_truth": True}
    return Layout(NAMES, **(given | more))


def answer(*probabilities: float, chosen: list[int] | None = None) -> Answer:
    order = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
    return Answer(list(probabilities), order, order[:1] if chosen is None else chosen)


ROWS = [
    Row("a.jpg", "in/a.jpg", answer(0.2, 0.7, 0.1), "", [1]),
    Row("=b.jpg", "in/=b.jpg", answer(0.5, 0.1, 0.4), "", [2]),
    Row("broken.jpg", "in/broken.jpg", None, "cut\noff", [0]),
    Row("w\udcff.jpg", "in/w\udcff.jpg", answer(0.2, 0.2, 0.6), "", [2]),
]


def write_all(table: Table, file: Path, of: Layout, rows: list[Row]) -> None:
    with table(file, of) as write:
        for row in rows:
            write(row)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def test_parquet_says_what_csv_says_with_real_types(tmp_path: Path) -> None:
    of = layout(abstain_below=0.55)
    write_all(csv_table, tmp_path / "p.csv", of, ROWS)
    write_all(parquet_table, tmp_path / "p.parquet", of, ROWS)
    rows = read_csv(tmp_path / "p.csv")
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == list(rows[0])
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        **dict.fromkeys(("path", "label", "label_2", "label_3", "error"), "string"),
        **dict.fromkeys(("index", "target"), "int64"),
        **dict.fromkeys(("score", "score_2", "score_3"), "double"),
        **dict.fromkeys(("prob_blue", "prob_=green", "prob_red"), "double"),
        **dict.fromkeys(("correct", "undecided"), "bool"),
    }
    escaped = {"'=green": "=green", "w\udcff.jpg": "w\\xff.jpg"}
    for cells, typed in zip(rows, table.to_pylist(), strict=True):
        for name, text in cells.items():
            value = typed[name]
            if value is None:
                assert text == ""
            elif isinstance(value, float):
                assert float(text) == pytest.approx(value, rel=1e-7)
            else:
                assert escaped.get(text, text) == str(value).replace("\n", " ")
    assert [row["undecided"] for row in rows] == ["False", "True", "", "False"]
    assert [row["correct"] for row in rows] == ["True", "False", "", "True"]
    assert list(rows[0])[-4:] == ["error", "target", "correct", "undecided"]


def test_parquet_of_several_labels_has_lists(tmp_path: Path) -> None:
    of = layout(several=True, abstain_below=0.8)
    rows = [
        Row("a", None, answer(0.9, 0.95, 0.1, chosen=[1, 0]), "", [0, 1]),
        Row("b", None, answer(0.1, 0.1, 0.45, chosen=[]), "", [2]),
        Row("c", None, None, "broken", []),
    ]
    write_all(parquet_table, tmp_path / "p.parquet", of, rows)
    write_all(csv_table, tmp_path / "p.csv", of, rows)
    table = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["label"] for row in table] == [["=green", "blue"], [], None]
    assert [row["index"] for row in table] == [[1, 0], [], None]
    assert [row["score"] for row in table] == [[0.95, 0.9], [], None]
    assert [row["target"] for row in table] == [[0, 1], [2], []]
    assert [row["correct"] for row in table] == [True, False, None]
    assert [row["undecided"] for row in table] == [False, True, None]
    assert [row["label"] for row in read_csv(tmp_path / "p.csv")] == ["'=green|blue", "", ""]


def test_parquet_comes_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.callbacks.prediction_files._GROUP_ROWS", 300)
    rows = [Row(f"{number:04d}", None, answer(0.2, 0.7, 0.1), "", [1]) for number in range(1000)]
    write_all(parquet_table, tmp_path / "p.parquet", layout(), rows)
    with parquet.ParquetFile(tmp_path / "p.parquet") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [300, 300, 300, 100] and _GROUP_ROWS > 300
    assert parquet.read_table(tmp_path / "p.parquet")["path"].to_pylist() == [r.path for r in rows]


@pytest.mark.parametrize("rows", [[], ROWS[2:3]])
@pytest.mark.parametrize("table", [csv_table, parquet_table])
def test_tables_without_an_answer_have_their_columns(
    tmp_path: Path, table: Table, rows: list[Row]
) -> None:
    of = layout()
    write_all(table, tmp_path / "p", of, rows)
    names = [column.name for column in columns_of(of)]
    if table is parquet_table:
        read = parquet.read_table(tmp_path / "p")
        assert (read.column_names, read.num_rows) == (names, len(rows))
    else:
        with (tmp_path / "p").open(newline="") as stream:
            lines = list(csv.reader(stream))
        assert lines[0] == names and len(lines) == 1 + len(rows)


@pytest.mark.parametrize(
    ("num_ranks", "names"),
    [(1, []), (2, ["label_2", "score_2"]), (3, ["label_2", "score_2", "label_3", "score_3"])],
)
def test_ranks_have_columns(tmp_path: Path, num_ranks: int, names: list[str]) -> None:
    of = layout(num_ranks=num_ranks, with_truth=False)
    write_all(csv_table, tmp_path / "p.csv", of, ROWS[:1])
    (row,) = read_csv(tmp_path / "p.csv")
    probabilities = [f"prob_{name}" for name in NAMES]
    assert list(row) == ["path", "label", "index", "score", *names, *probabilities, "error"]
    ranking = ["'=green", "0.7", "blue", "0.2", "red", "0.1"]
    assert [row["label"], row["score"], *(row[name] for name in names)] == ranking[: 2 * num_ranks]


def test_other_decisions_than_the_likeliest_keep_the_ranking_whole(tmp_path: Path) -> None:
    row = Row("a", None, answer(0.6, 0.3, 0.1, chosen=[1]), "", [1])
    write_all(csv_table, tmp_path / "p.csv", layout(abstain_below=0.5), [row])
    (cells,) = read_csv(tmp_path / "p.csv")
    assert [cells[name] for name in ("label", "label_2", "label_3")] == ["'=green", "blue", "red"]
    assert (cells["score"], cells["correct"], cells["undecided"]) == ("0.3", "True", "True")


@pytest.mark.parametrize("table", [csv_table, parquet_table, image_files])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, table: Table, error: type[BaseException]
) -> None:
    with pytest.raises(error), table(tmp_path / "p", layout()) as write:
        for row in ROWS:
            write(row)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_files_of_images_hold_the_likeliest_classes(tmp_path: Path) -> None:
    write_all(image_files, tmp_path / "p", layout(num_ranks=2, abstain_below=0.55), ROWS)
    assert json.loads((tmp_path / "p/a.jpg.json").read_text()) == {
        "path": "a.jpg",
        "file": "in/a.jpg",
        "label": "=green",
        "predictions": [
            {"label": "=green", "index": 1, "probability": 0.7},
            {"label": "blue", "index": 0, "probability": 0.2},
        ],
        "error": None,
        "target": "=green",
        "correct": True,
        "undecided": False,
    }
    assert json.loads((tmp_path / "p/broken.jpg.json").read_text()) == {
        "path": "broken.jpg", "file": "in/broken.jpg", "label": None, "predictions": [],
        "error": "cut\noff", "target": "blue", "correct": None, "undecided": None,
    }  # fmt: skip
    assert len(list((tmp_path / "p").iterdir())) == len(ROWS)


def test_files_of_images_of_several_labels(tmp_path: Path) -> None:
    row = Row("a", None, answer(0.9, float("nan"), 0.8, chosen=[0, 2]), "", [])
    write_all(image_files, tmp_path / "p", layout(several=True, with_truth=True), [row])
    content = json.loads((tmp_path / "p/a.json").read_text())
    assert (content["label"], content["target"]) == (["blue", "red"], [])
    by_label = {item["label"]: item["probability"] for item in content["predictions"]}
    assert by_label == {"blue": 0.9, "=green": None, "red": 0.8}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "a.jpg.json"),
        ("sub/a.png", "sub/a.png.json"),
        ("../../etc/x.png", "_up/_up/etc/x.png.json"),
        ("_up/x.png", "__up/x.png.json"),
        ("/tmp/x.png", "_root/tmp/x.png.json"),
        ("./x.png", "_here/x.png.json"),
        ("a.jpg.json/b.jpg", "a.jpg.json_/b.jpg.json"),
        ("a.jpg.json_/b.jpg", "a.jpg.json__/b.jpg.json"),
        ("..", "...json"),
        ("", "_root.json"),
    ],
)
def test_files_of_images_have_safe_names(tmp_path: Path, path: str, expected: str) -> None:
    assert _free_file(tmp_path, path) == tmp_path / expected


PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "a", "a.json", "a.json_", "_up", "__up", "_root", "up"]),
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=300),
    st.text(st.sampled_from("ü\udcff"), min_size=120, max_size=140),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(paths=st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=6))
def test_any_paths_have_files_of_their_own_below_the_folder(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str]
) -> None:
    root = tmp_path_factory.mktemp("files")
    for number, path in enumerate(paths):
        file = _free_file(root, path)
        assert file.resolve().is_relative_to(root) and not file.exists()
        file.write_text(str(number))
        assert file.suffix == ".json"


@given(first=PARTS, second=PARTS)
def test_different_folders_stay_different(first: str, second: str) -> None:
    if first != second and max(len(first), len(second)) < 50 and "\0" not in first + second:
        assert _folder_name(first) != _folder_name(second)


def test_parquet_without_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_format("csv")
    check_format("json")
    with pytest.raises(ConfigError) as caught:
        check_format("parquet")
    assert str(caught.value) == (
        "evaluation.format: parquet files need pyarrow, which is not installed, got 'parquet'. "
        "pip install pyarrow, or write csv."
    )
