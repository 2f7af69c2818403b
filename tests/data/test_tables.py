"""CSV, TSV and parquet: columns, splits, groups, several labels, and every mistake by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from classifier import main
from classifier.data.datasets import Sample
from classifier.data.tables import CsvImageDataset
from classifier.errors import ConfigError
from tests.conftest import COLOURS, write_image

ROWS = {
    "path": ["b.png", "a.png", "sub/ü, 1.png", "d.png"],
    "label": ["red", "blue", "red", "green"],
    "split": ["train", "train", "test", "train"],
    "patient": ["1", "2", "1", "3"],
    "tags": ["red|warm", "blue", "", "green | warm|green"],
}


@pytest.fixture
def table(workplace: Path) -> Path:
    for index, path in enumerate(ROWS["path"]):
        write_image(workplace / "pictures" / path, COLOURS["red"], index)
    pd.DataFrame(ROWS).to_csv(workplace / "pictures" / "table.csv", index=False)
    return workplace / "pictures" / "table.csv"


def test_rows_are_samples_in_the_order_of_their_paths(table: Path) -> None:
    dataset = CsvImageDataset(str(table), group_column="patient")
    assert list(dataset.samples) == [
        Sample("a.png", "blue", "2"), Sample("b.png", "red", "1"),
        Sample("d.png", "green", "3"), Sample("sub/ü, 1.png", "red", "1"),
    ]  # fmt: skip
    assert dataset.class_names == ["blue", "green", "red"]
    assert dataset.targets == [0, 2, 1, 2]
    assert dataset.load(3).shape == (32, 32, 3)
    assert not dataset.is_multilabel


def test_split_column_chooses_rows(table: Path) -> None:
    dataset = CsvImageDataset(str(table), split_column="split", split="test")
    assert [sample.path for sample in dataset.samples] == ["sub/ü, 1.png"]


def test_delimiter_makes_several_labels(table: Path) -> None:
    dataset = CsvImageDataset(str(table), target_column="tags", delimiter="|")
    assert dataset.is_multilabel
    assert [sample.label for sample in dataset.samples] == [
        ("blue",), ("red", "warm"), ("green", "warm"), (),
    ]  # fmt: skip
    assert dataset.class_names == ["blue", "green", "red", "warm"]
    assert dataset.targets == [(0,), (2, 3), (1, 3), ()]


@pytest.mark.parametrize("name", ["table.parquet", "table.tsv"])
def test_other_formats_hold_the_same(table: Path, name: str) -> None:
    file = table.with_name(name)
    frame = pd.DataFrame(ROWS)
    if name.endswith("tsv"):
        frame.to_csv(file, sep="\t", index=False)
    else:
        frame["label"] = [["red", "warm"], ["blue"], [], ["green"]]
        frame.to_parquet(file)
    dataset = CsvImageDataset(str(file))
    assert [sample.path for sample in dataset.samples] == sorted(ROWS["path"])
    assert dataset.is_multilabel == name.endswith("parquet")
    if dataset.is_multilabel:
        assert dataset.samples[1].label == ("red", "warm")


def test_numbers_stay_the_labels_that_they_are(table: Path) -> None:
    frame = pd.DataFrame({**ROWS, "label": [1, 2, 10, None]})
    frame.to_parquet(table.with_suffix(".parquet"))
    dataset = CsvImageDataset(str(table.with_suffix(".parquet")))
    assert [sample.label for sample in dataset.samples] == ["2", "1", None, "10"]
    text = table.read_text().replace("red,train,1", "007,train,1")
    table.write_text(text)
    assert "007" in CsvImageDataset(str(table)).class_names


def test_rows_without_a_file_are_named(table: Path) -> None:
    (table.parent / "d.png").unlink()
    with pytest.raises(ConfigError) as caught:
        CsvImageDataset("pictures/table.csv").scan()
    assert str(caught.value) == (
        "table: 1 of the 4 images that it lists are not in pictures: d.png, "
        "got 'pictures/table.csv'. Correct or remove these rows."
    )


def test_forgotten_delimiter_is_told(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({**ROWS, "label": ["a", "b", "a; b", "a,b"]})
    frame.to_csv(table, index=False)
    CsvImageDataset(str(table)).scan()
    assert "the label 'a; b' looks like several: is delimiter: ';' meant?" in caplog.text
    caplog.clear()
    frame["label"] = ["Doe, Jane", "b", "a", "c;d"]
    frame.to_csv(table, index=False)
    CsvImageDataset(str(table)).scan()
    assert not caplog.text


def test_nullable_columns_of_parquet_are_read(table: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame["label"] = pd.array([1, 2, None, 10], dtype="Int64")
    frame["patient"] = pd.array(["a", None, "a", "b"], dtype="string")
    frame.to_parquet(table.with_suffix(".parquet"))
    dataset = CsvImageDataset(str(table.with_suffix(".parquet")), group_column="patient")
    assert [sample[1:] for sample in dataset.samples] == [
        ("2", None), ("1", "a"), ("10", "b"), (None, "a"),
    ]  # fmt: skip
    frame["label"] = pd.Series([["a"], None, [], ["b"]], dtype=object)
    frame.to_parquet(table.with_suffix(".parquet"))
    dataset = CsvImageDataset(str(table.with_suffix(".parquet")))
    assert [sample.label for sample in dataset.samples] == [None, ("a",), ("b",), ()]


def test_images_without_labels_can_be_listed(table: Path) -> None:
    dataset = CsvImageDataset(str(table), target_column=None)
    assert {sample.label for sample in dataset.samples} == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "no.csv"}, "table: no such file, got 'no.csv'"),
        ({"table": "pictures/a.png"}, "table: is no table, got 'pictures/a.png'"),
        ({"image_column": "file"}, "image_column: the table has no such column, got 'file'. The columns are path, label"),
        ({"target_column": "lable"}, "Did you mean 'label'?"),
        ({"delimiter": ""}, "delimiter: is empty, got ''. Write for example ';'."),
        ({"split": "train"}, "split_column: is missing beside split"),
        ({"split_column": "split", "split": "val"}, "split: no row of pictures/table.csv has this value in split, got 'val'. The values are test, train"),
        ({"root": "elsewhere"}, "root: none of the 4 images that pictures/table.csv lists is there, for example elsewhere/b.png"),
    ],
)  # fmt: skip
def test_mistake_is_told_with_its_key(table: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CsvImageDataset(**{"table": "pictures/table.csv", **arguments}).scan()
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "path,label\n", 'path,label\n"a.png'])
def test_table_without_rows_is_told(table: Path, content: str) -> None:
    table.write_text(content)
    with pytest.raises(ConfigError):
        CsvImageDataset(str(table)).scan()


def test_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_name(table: Path) -> None:
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(CsvImageDataset(str(table)).samples) == 4


def test_several_labels_through_every_stage(config: Any, save: Any, workplace: Path) -> None:
    """A CSV with a delimiter is all that multi-label data needs."""
    names = {"blue": "blue|cold", "green": "green", "red": "red|warm"}
    files = sorted((workplace / "images" / "train").rglob("*.png"))
    rows = [{"path": str(f), "tags": names[f.parent.name]} for f in files]
    rows[0]["tags"] = ""
    pd.DataFrame(rows).to_csv(workplace / "tags.csv", index=False)
    sets = config["data"]["init_args"]["dataset_classes"]
    arguments = {"table": "tags.csv", "target_column": "tags", "delimiter": "|"}
    sets["train"] = {"class_path": "CsvImageDataset", "init_args": arguments}
    sets["test"] = sets["train"]
    config["model"]["init_args"]["class_weights"] = "auto"
    result = main(["--config", save(config)])
    assert result is not None
    assert "validation_f1_score" in result.metrics
    tested = main(["--test", "--ckpt_path", result.output_dir])
    assert tested is not None
    table = pd.read_csv(Path(tested.output_dir) / "predictions.csv", keep_default_na=False)
    assert list(table.columns) == [
        "path", "label", "index", "score", "prob_blue", "prob_cold", "prob_green", "prob_red",
        "prob_warm", "error", "target", "correct",
    ]  # fmt: skip
    assert sorted(set(table["target"])) == ["", "0|1", "2", "3|4"]
    predicted = main(["--predict", "--ckpt_path", result.output_dir])
    assert predicted is not None
    folds = json.loads((Path(result.output_dir) / "result.json").read_text())
    assert folds["status"] == "completed"
