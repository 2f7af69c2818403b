"""Tables of predictions: read as they are, refused where they are damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from classifier.errors import ConfigError
from classifier.evaluation.reading import read_predictions

HEADER = "path,label,index,score,label_2,score_2,prob_a,prob_b,error,target,correct"
ROW = "a.png,a,0,0.9,b,0.1,0.9,0.1,,0,True"
FAILED = "broken.png,,,,,,,,the file is empty,1,"
AGAIN = "Have it written anew: python main.py --test --ckpt_path RUN, or --val."


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    file = folder / "predictions.csv"
    text = "".join(f"{row}\r\n" for row in (header, *rows))
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return file


def test_names_keep_their_bytes_when_they_are_no_unicode(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "dog/caf\udce9.png,a,0,0.9,b\udce9,0.1,0.9,0.1,,0,True",
        "cat/\udcff.png,,,,,,,,cut off: \udcff,1,",
        header=HEADER.replace("prob_b", "prob_b\udce9"),
    )
    found = read_predictions(file, "multiclass", ["a", "b\udce9"])
    assert found.paths == ["dog/caf\udce9.png"]
    assert found.failed == [("cat/\udcff.png", "cut off: \udcff")]
    assert found.probabilities.tolist() == [[0.9, 0.1]]


def test_texts_stay_what_they_are_when_they_look_like_missing_values(tmp_path: Path) -> None:
    rows = [ROW.replace("a.png", name) for name in ("NA", "nan", "007", "None")]
    assert read_predictions(write(tmp_path, *rows), None).paths == ["NA", "nan", "007", "None"]


def test_probabilities_of_a_diverged_model_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, ROW, FAILED, "b.png,a,0,nan,b,nan,nan,nan,,1,False")
    found = read_predictions(file, "multiclass")
    assert found.probabilities[0].tolist() == [0.9, 0.1]
    assert all(map(math.isnan, found.probabilities[1]))


def large(folder: Path, last: str) -> tuple[Path, list[list[str]]]:
    """A table of 600 kB, which pandas reads in portions; texts like numbers come at its end."""
    rows = [f"{'long/' * 20}{place}.png,{ROW.partition(',')[2]}" for place in range(4000)]
    rows += ["007" + ROW[5:], FAILED, last]
    return write(folder, *rows), [row.split(",") for row in rows]


def test_every_row_is_read_as_it_stands_when_the_table_is_large(tmp_path: Path) -> None:
    file, rows = large(tmp_path, "1" + ROW[5:].replace("0.9,0.1,,0", "0.123456789012345,0.87,,1"))
    found = read_predictions(file, None)
    good = [row for row in rows if not row[8]]
    assert found.paths == [row[0] for row in good]
    assert found.probabilities.tolist() == [[float(row[6]), float(row[7])] for row in good]
    assert found.targets.tolist() == [int(row[9]) for row in good]
    assert found.failed == [("broken.png", "the file is empty")]


@pytest.mark.parametrize(
    "last, problem",
    [
        (ROW.replace("0.9,0.1,,", "high,0.1,,"), "prob_a must be a probability, got 'high'"),
        ("a.pn", "must have 11 cells, got 1"),
    ],
)
def test_row_is_named_when_it_is_the_last_of_a_large_table(
    tmp_path: Path, last: str, problem: str
) -> None:
    file, rows = large(tmp_path, last)
    with pytest.raises(ConfigError, match=f"row {len(rows) + 1}: .*{problem}"):
        read_predictions(file, None)


@pytest.mark.parametrize(
    "row, problem",
    [
        (ROW.replace(",a,0,", ",a,99,"), "index must be a class from 0 to 1, got '99'"),
        (ROW.replace(",a,0,", ",a,-1,"), "index must be a class from 0 to 1, got '-1'"),
        (ROW.replace(",a,0,", ",a,,"), "index must be a class from 0 to 1, got ''"),
        (ROW.replace(",0,True", ",-1,True"), "target must be a class from 0 to 1, got '-1'"),
        (ROW.replace(",0,True", ",,True"), "target must be a class from 0 to 1, got ''"),
        (ROW.replace("0.9,0.1,,", "high,0.1,,"), "prob_a must be a probability, got 'high'"),
        (ROW.replace("0.9,0.1,,", "0.9,,,"), "prob_b must be a probability, got ''"),
        (ROW.replace("0.9,0.1,,", "9,0.1,,"), "prob_a must be a probability from 0 to 1, got 9.0"),
        ("a.png,a,0,0.9,b", "must have 11 cells, got 5"),
        ("a.pn", "must have 11 cells, got 1"),
        ("a.png,a,0,0.9,b,0.1,0.9,0.1,,1", "the row ends early: correct is missing, got ''"),
        (FAILED.replace(",,,,,,,,", ",a,0,0.9,b,0.1,0.9,0.1,"),
         "has a prediction, and an error in its place, got 'the file is empty'"),
    ],
)  # fmt: skip
def test_row_is_named_when_it_is_damaged(tmp_path: Path, row: str, problem: str) -> None:
    file = write(tmp_path, ROW, FAILED, row)
    for task in ("multiclass", None):
        with pytest.raises(ConfigError) as caught:
            read_predictions(file, task)
        assert str(caught.value) == f"{file} row 4: {problem}. {AGAIN}"


def test_index_of_several_labels_is_checked_too(tmp_path: Path) -> None:
    header = "path,label,index,score,prob_a,prob_b,error,target,correct"
    rows = ["a.png,,,,0.1,0.2,,0|1,False", "b.png,a|b,0|2,0.9|0.9,0.9,0.9,,,False"]
    file = write(tmp_path, *rows, header=header)
    with pytest.raises(ConfigError, match=r"row 3: index must be a class from 0 to 1, got '0\|2'"):
        read_predictions(file, "multilabel")
    found = read_predictions(write(tmp_path, rows[0], header=header), None)
    assert found.task == "multilabel" and not found.predicted.any() and found.targets.all()


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", bytes(range(256)) * 9, b'path,"'])
def test_file_is_refused_when_it_is_no_table(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: "):
        read_predictions(tmp_path / name, None)


def test_parquet_is_checked_as_csv_is(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"  # no key of a partition
    folder.mkdir()
    content: dict[str, Any] = {
        "path": ["a.png", "b.png", "c.png"], "index": pd.array([0, 1, None], dtype="Int64"),
        "prob_a": [0.9, 0.2, None], "prob_b": [0.1, 0.8, None], "error": [None, None, "broken"],
        "target": [0, 0, 1], "correct": [True, False, None],
    }  # fmt: skip
    file = folder / "predictions.parquet"
    pd.DataFrame(content).to_parquet(file, index=False)
    found = read_predictions(file, None)
    assert (found.task, found.paths, found.failed) == (
        "multiclass", ["a.png", "b.png"], [("c.png", "broken")],
    )  # fmt: skip
    assert np.array_equal(found.probabilities, [[0.9, 0.1], [0.2, 0.8]])
    assert (found.targets.tolist(), found.predicted.tolist()) == ([0, 0], [0, 1])
    pd.DataFrame(content | {"target": [0, 7, 1]}).to_parquet(file, index=False)
    with pytest.raises(ConfigError, match="row 2: target must be a class from 0 to 1, got '7'"):
        read_predictions(file, "multiclass")
    pd.DataFrame(content | {"prob_a": ["high", "low", ""]}).to_parquet(file, index=False)
    with pytest.raises(ConfigError, match="is damaged"):
        read_predictions(file, "multiclass")


def test_parquet_without_pyarrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.evaluation.reading.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read_predictions(tmp_path / "predictions.parquet", None)
