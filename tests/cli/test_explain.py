"""--explain: the worst errors of the test set, and images that the command line names."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from classifier import main
from classifier.entry import console
from classifier.errors import ConfigError
from classifier.model import activation_maps
from classifier.runs import Result
from tests.conftest import COLOURS, write_classes, write_image

TEST_ROOT = "--data.init_args.dataset_classes.test.init_args.root"


def explained(*words: str) -> Result:
    result = main(["--explain", *words])
    assert result is not None and result.status == "completed"
    return result


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def table_of(result: Result) -> list[dict[str, str]]:
    return rows_of(Path(result.output_dir, "report/explanations.csv"))


@pytest.fixture
def mixed_up(workplace: Path) -> Path:
    """A test set with images in the wrong folders."""
    root = write_classes(workplace / "mixed", 3, seed=400)
    wrong = [("blue", "red"), ("blue", "green"), ("red", "blue"), ("green", "blue")]
    for number, (folder, colour) in enumerate(wrong):
        write_image(root / folder / f"wrong{number}.png", COLOURS[colour], 700 + number)
    return root


def test_worst_errors_are_those_of_the_highest_loss(trained: Path, mixed_up: Path) -> None:
    given = ["--ckpt_path", str(trained), TEST_ROOT, str(mixed_up)]
    tested = main(["--test", *given])
    assert tested is not None
    losses = {
        row["path"]: -math.log(float(row[f"prob_{row['path'].partition('/')[0]}"]))
        for row in rows_of(Path(tested.output_dir, "predictions.csv"))
        if row["correct"] == "False"
    }
    assert len(losses) >= 3
    worst = sorted(losses, key=lambda path: -losses[path])[:2]
    result = explained(*given, "--evaluation.num_explained", "2")
    rows = table_of(result)
    assert [row["path"] for row in rows] == worst
    assert [float(row["loss"]) for row in rows] == pytest.approx([losses[p] for p in worst], 1e-3)
    assert all(row["truth"] == row["path"].partition("/")[0] != row["label"] for row in rows)
    assert result.mode == "explain" and result.num_images == 2 and "test_loss" in result.metrics


def test_run_folder_holds_pictures_maps_and_a_page(
    trained: Path, mixed_up: Path, capsys: Any
) -> None:
    result = explained("--ckpt_path", str(trained), TEST_ROOT, str(mixed_up))
    report = Path(result.output_dir, "report")
    rows = table_of(result)
    assert len(rows) >= 3
    for row in rows:
        with Image.open(report / row["file"]) as picture:
            assert picture.format == "PNG" and picture.width == 1000  # image, predicted, true
    with np.load(report / "explanations/maps.npz") as kept:
        assert kept["maps"].shape == (2 * len(rows), 32, 32)
        assert kept["maps"].min() >= 0.0 and kept["maps"].max() == 1.0
        assert kept["class_name"][:2].tolist() == [rows[0]["label"], rows[0]["truth"]]
        assert kept["picture"][:2].tolist() == [Path(rows[0]["file"]).name] * 2
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count("data:image/jpeg;base64,") == 3 * len(rows)
    assert "default-src 'none'" in page and "<script" not in page
    assert all(row["path"] in page for row in rows)
    assert f"report: {report.as_posix()}/index.html" in capsys.readouterr().out


def test_validation_is_looked_at_when_there_is_no_test_set(trained: Path, workplace: Path) -> None:
    none = ["--data.init_args.dataset_classes.test", "null"]
    result = explained("--ckpt_path", str(trained), *none)
    assert "validation_loss" in result.metrics and "test_loss" not in result.metrics
    page = Path(result.output_dir, "report/index.html").read_text()
    assert "validation images" in page


def test_page_says_so_when_there_are_no_errors(trained: Path, workplace: Path) -> None:
    root = workplace / "few"
    write_classes(root, 2, seed=3)
    predicted = main(["--predict", str(root), "--ckpt_path", str(trained)])
    assert predicted is not None
    right = [
        row["path"]
        for row in rows_of(Path(predicted.output_dir, "predictions.csv"))
        if row["label"] == row["path"].partition("/")[0]
    ]
    for file in root.rglob("*.png"):
        if file.relative_to(root).as_posix() not in right:
            file.unlink()
    result = explained("--ckpt_path", str(trained), TEST_ROOT, str(root))
    assert table_of(result) == []
    page = Path(result.output_dir, "report/index.html").read_text()
    assert f"All {len(right)} test images are predicted as they are." in page


def test_given_images_are_explained_and_broken_ones_told(
    trained: Path, images: Path, capsys: Any
) -> None:
    (images / "new" / "broken.jpg").write_bytes(b"no image")
    result = explained(str(images / "new"), "--ckpt_path", str(trained))
    rows = table_of(result)
    assert [row["path"] for row in rows] == ["0.png", "1.png", "2.png", "broken.jpg"]
    assert [bool(row["file"]) for row in rows] == [True, True, True, False]
    assert rows[3]["error"] and not rows[3]["label"] and not any(row["truth"] for row in rows)
    assert (result.num_images, result.num_errors) == (4, 1)
    assert "1 of 4 images could not be decoded: broken.jpg" in capsys.readouterr().err
    with Image.open(Path(result.output_dir, "report", rows[0]["file"])) as picture:
        assert picture.width == 670  # the image, and the predicted class
    assert "broken.jpg" in Path(result.output_dir, "report/index.html").read_text()
    predicted = main(["--predict", str(images / "new"), "--ckpt_path", str(trained)])
    assert predicted is not None
    answers = rows_of(Path(predicted.output_dir, "predictions.csv"))
    assert [row["label"] for row in rows] == [row["label"] for row in answers]
    scores = [float(row["score"]) for row in answers[:3]]
    assert [float(row["score"]) for row in rows[:3]] == pytest.approx(scores, abs=1e-4)


def test_only_the_first_are_explained_when_there_are_more(
    trained: Path, images: Path, capsys: Any
) -> None:
    words = ["--evaluation.num_explained", "2"]
    result = explained(str(images / "new"), "--ckpt_path", str(trained), *words)
    assert [row["path"] for row in table_of(result)] == ["0.png", "1.png"]
    told = "the first 2 of 3 images are explained; evaluation.num_explained says how many"
    assert told in capsys.readouterr().err


def test_names_are_text_and_nothing_else(trained: Path, workplace: Path) -> None:
    odd = "=<img src=x onerror=alert(1)> $x$ Ж.png"
    write_image(workplace / "odd" / odd, (200, 50, 40), 1)
    result = explained("odd", "--ckpt_path", str(trained))
    page = Path(result.output_dir, "report/index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt; $x$ Ж.png" in page
    assert table_of(result)[0]["path"] == f"./{odd}"


def test_names_that_are_no_unicode_are_explained(trained: Path, workplace: Path) -> None:
    good = write_image(workplace / "odd" / "a.png", (200, 50, 40), 1)
    good.rename(good.with_name(os.fsdecode(b"caf\xe9.png")))
    (workplace / "odd" / os.fsdecode(b"bad\xe9.png")).write_bytes(b"no image")
    report = Path(explained("odd", "--ckpt_path", str(trained)).output_dir, "report")
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "caf\\udce9.png" in page and "<td>bad\\udce9.png</td>" in page
    table = (report / "explanations.csv").read_bytes()
    assert b"\r\ncaf\xe9.png," in table and b"\r\nbad\xe9.png," in table


def test_several_labels_are_explained_by_the_worst_of_each_kind(
    config: dict[str, Any], save: Any, images: Path
) -> None:
    lines = ["image,target"]
    for file in sorted((images / "train").rglob("*.png")):
        relative = file.relative_to(images / "train").as_posix()
        lines.append(f"{relative},{relative.partition('/')[0]}|{'ab'[len(lines) % 2]}")
    (images / "labels.csv").write_text("\n".join(lines) + "\n")
    table = {
        "class_path": "CsvImageDataset",
        "init_args": {
            "table": str(images / "labels.csv"), "root": str(images / "train"),
            "image_column": "image", "target_column": "target",
            "delimiter": "|",
        },
    }  # fmt: skip
    config["data"]["init_args"]["dataset_classes"] = {"train": table}
    config["trainer"]["max_epochs"] = 1
    trained = main(["--config", save(config)])
    assert trained is not None
    result = explained("--ckpt_path", trained.output_dir)
    rows = table_of(result)
    assert rows and all("|" in row["truth"] for row in rows)
    with np.load(Path(result.output_dir, "report/explanations/maps.npz")) as kept:
        for row in rows:
            mine = kept["picture"] == Path(row["file"]).name
            named = dict(zip(kept["role"][mine], kept["class_name"][mine], strict=True))
            predicted = set(filter(None, row["label"].split("|")))
            truth = set(row["truth"].split("|"))
            missed = truth - predicted
            assert named["true"] in missed if missed else "true" not in named
            if predicted - truth:
                assert named["predicted"] in predicted - truth


# Mistakes


def test_missing_captum_is_told_before_any_work(
    trained: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        activation_maps, "find_spec", lambda name: None if name == "captum" else found(name)
    )
    message = "^--explain: needs captum, which is not installed. pip install captum.$"
    with pytest.raises(ConfigError, match=re.compile(message)):
        main(["--explain", "--ckpt_path", str(trained)])
    assert not (workplace / "runs").exists()


def test_path_that_does_not_exist_is_named(trained: Path, workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--explain: no such file or folder, got 'nope\.jpg'"):
        main(["--explain", "nope.jpg", "--ckpt_path", str(trained)])
    assert not (workplace / "runs").exists()


def test_checkpoint_is_asked_for(workplace: Path, capsys: Any) -> None:
    assert console(["--explain", "a.jpg"]) == 2
    assert capsys.readouterr().err.startswith("--explain: needs a checkpoint.")


def test_number_of_images_is_at_least_one(trained: Path, workplace: Path, capsys: Any) -> None:
    words = ["--ckpt_path", str(trained), "--evaluation.num_explained", "0"]
    assert console(["--explain", *words]) == 2
    assert "evaluation.num_explained: must be at least 1, got 0." in capsys.readouterr().err


class Flat(nn.Module):
    """Mixes all places from the start."""

    image_size = 32

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def test_network_without_a_grid_is_refused_before_a_run(
    config: dict[str, Any], save: Any, capsys: Any
) -> None:
    config["model"]["init_args"]["model_name"] = "tests.cli.test_explain.Flat"
    config["trainer"]["max_epochs"] = 1
    trained = main(["--config", save(config)])
    assert trained is not None
    runs = sorted(Path("runs").rglob("result.json"))
    words = ["--ckpt_path", trained.output_dir, "--allow_module", "tests"]
    assert console(["--explain", *words]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ckpt_path: cannot be explained: Flat: no layer was found")
    assert sorted(Path("runs").rglob("result.json")) == runs
