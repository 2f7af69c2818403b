"""The report of a training, of --val and of --test."""

from __future__ import annotations

import csv
import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from classifier.config import parse_yaml
from classifier.entry import main
from classifier.errors import ConfigError, RunError
from classifier.runs import Result
from tests.conftest import configuration, write_classes
from tests.recording import SECRETS

FILES = {
    "metrics.json", "per_class.csv", "confusion.csv", "most_confused.csv", "errors.csv",
    "reliability.csv", "coverage.csv", "index.html", "confusion.png", "reliability.png",
}  # fmt: skip


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of four epochs with its report, in a folder of its own."""
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        root = folder / "images"
        write_classes(root / "train", 10)
        write_classes(root / "test", 4, seed=5000)
        content = configuration(root, max_epochs=2)
        content["evaluation"] = {"report": True}
        (folder / "cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        result = main(["--config", "cfg.yaml"])
        assert result is not None
        return folder / result.output_dir


def result_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def figures_of(folder: Path) -> dict[str, float]:
    content = json.loads((folder / "metrics.json").read_text())
    return {name: found["value"] for name, found in content["estimates"].items()}


def test_training_reports_on_test_and_on_validation(reported: Path) -> None:
    assert {file.name for file in (reported / "report").iterdir()} >= FILES
    assert {file.name for file in (reported / "report/validation").iterdir()} >= FILES
    assert len(rows_of(reported / "predictions.csv")) == 12
    assert len(rows_of(reported / "report/validation/predictions.csv")) == 6
    result = result_of(reported)
    assert result["report"] == "report/index.html"
    assert list(result["evaluated"]) == ["validation", "test"]
    for stage, folder in (
        ("test", reported / "report"),
        ("validation", reported / "report/validation"),
    ):
        found = figures_of(folder)
        assert {name: result["evaluated"][stage][name] for name in found} == found
        assert "95 % interval" in result["verdicts"][stage]


def test_figures_are_those_of_the_saved_predictions(reported: Path) -> None:
    rows = rows_of(reported / "predictions.csv")
    truth, decided = ([row[name] for row in rows] for name in ("target", "index"))
    found = figures_of(reported / "report")
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, decided))
    assert found["f1_score"] == pytest.approx(f1_score(truth, decided, average="macro"))
    errors = rows_of(reported / "report/errors.csv")
    assert {row["path"] for row in errors} == {r["path"] for r in rows if r["correct"] == "False"}


def test_report_is_of_the_checkpoint_that_the_folder_stands_for(reported: Path) -> None:
    result = result_of(reported)
    best, found = result["best_metrics"], result["evaluated"]["validation"]
    for name in ("accuracy", "f1_score", "precision", "recall"):
        assert found[name] == pytest.approx(best[f"validation_{name}"], abs=1e-6), name
    assert found["log_loss"] == pytest.approx(best["validation_loss"], abs=1e-5)


@pytest.mark.parametrize("mode, folder", [("--val", "report/validation"), ("--test", "report")])
def test_evaluation_of_the_checkpoint_comes_to_the_same(
    reported: Path, mode: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reported.parents[2])
    result = main([mode, "--ckpt_path", str(reported)])
    assert result is not None and result.report == "report/index.html"
    again = Path(result.output_dir)
    assert {file.name for file in (again / "report").iterdir()} >= FILES
    assert figures_of(again / "report") == pytest.approx(figures_of(reported / folder), abs=1e-6)
    before = reported if mode == "--test" else reported / folder
    assert (again / "predictions.csv").read_text() == (before / "predictions.csv").read_text()


def test_training_without_test_images_reports_on_validation(
    config: dict[str, Any], save: Any, workplace: Path
) -> None:
    del config["data"]["init_args"]["dataset_classes"]["test"]
    config["evaluation"] = {"report": True}
    result = main(["--config", save(config), "--trainer.max_epochs", "1"])
    assert result is not None and list(result.evaluated) == ["validation"]
    assert len(rows_of(Path(result.output_dir, "predictions.csv"))) == 6
    assert not Path(result.output_dir, "report/validation").exists()


def test_report_from_frozen_features_is_that_of_the_images(
    config: dict[str, Any], save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["model"]["init_args"]["freeze_encoder"] = True
    config["data"]["init_args"]["augmentations"]["train"].pop()  # the flip
    config["evaluation"] = {"report": True}
    words = ["--config", save(config), "--trainer.max_epochs", "2"]
    cached, images = main(words), main([*words, "--data.init_args.cache_features", "false"])
    assert cached is not None and images is not None
    for stage in ("validation", "test"):
        assert cached.evaluated[stage] == pytest.approx(images.evaluated[stage], abs=1e-4)


def test_missing_test_folder_is_told_before_the_training(
    config: dict[str, Any], save: Any, workplace: Path
) -> None:
    config["data"]["init_args"]["dataset_classes"]["test"]["init_args"]["root"] = "nowhere"
    config["evaluation"] = {"report": True}
    with pytest.raises(ConfigError, match=r"dataset_classes\.test"):
        main(["--config", save(config)])
    assert not (workplace / "runs").exists()


def test_unreadable_test_image_costs_the_report_and_not_the_training(
    config: dict[str, Any], save: Any, images: Path, workplace: Path
) -> None:
    image = next((images / "test").rglob("*.png"))
    content = image.read_bytes()
    image.write_bytes(b"no image")
    config["evaluation"] = {"report": True, "calibrate": "temperature"}
    words = ["--config", save(config), "--trainer.max_epochs", "1"]
    with pytest.raises(RunError, match=r"the training is complete, and .*best\.ckpt holds it"):
        main(words)
    run = next((workplace / "runs/colours").iterdir())
    assert (run / "checkpoints/best.ckpt").is_file()
    before = result_of(run)
    assert before["status"] == "failed" and before["best_score"] is not None
    # The same command goes on with what is missing.
    image.write_bytes(content)
    result = main([*words, "--ckpt_path", "last"])
    assert result is not None and result.status == "completed"
    assert list(result.evaluated) == ["validation", "test"]
    assert result.best_score == before["best_score"]
    assert result.num_steps == before["num_steps"]
    assert (Path(result.output_dir) / "checkpoints/last.ckpt").is_file()
    assert (Path(result.output_dir) / "README.md").is_file()


def test_names_that_are_no_unicode_are_reported(trained: Path, workplace: Path) -> None:
    root = write_classes(workplace / "odd", 2, seed=5000)
    name = os.fsdecode(b"caf\xe9.png")
    for colour in ("red", "blue"):
        (root / colour / "00.png").rename(root / colour / name)
    (root / "green/00.png").rename(root / "red" / f"x{name}")  # an error, and so a thumbnail
    words = ["--data.init_args.dataset_classes.test.init_args.root", "odd"]
    report = ["--evaluation.report", "true"]
    result = main(["--test", "--ckpt_path", str(trained), *words, *report])
    assert result is not None and result.status == "completed"
    folder = Path(result.output_dir)
    table, errors = (
        file.read_bytes() for file in (folder / "predictions.csv", folder / "report/errors.csv")
    )
    assert b"\r\nred/caf\xe9.png," in table and b"\r\nred/xcaf\xe9.png," in errors
    assert result.evaluated["test"]["accuracy"] == pytest.approx(result.metrics["test_accuracy"])


def test_report_can_be_left_out(train: Any) -> None:
    result: Result = train("--evaluation.report", "false")
    assert result.report is None
    assert not Path(result.output_dir, "report").exists()


def test_empty_section_is_that_of_the_defaults(config: dict[str, Any], save: Any) -> None:
    config["evaluation"] = None
    main(["--print_config", "--config", save(config)])


def test_only_the_configuration_and_the_checkpoint_hold_secrets(
    config: dict[str, Any], save: Any
) -> None:
    config["trainer"] |= {"max_epochs": 1}
    config["trainer"]["logger"] = {
        "class_path": "tests.recording.SecretLogger", "init_args": SECRETS,
    }  # fmt: skip
    config["evaluation"] = {"report": True}
    words = ["--trainer.logger.init_args.api_key", str(SECRETS["api_key"])]
    result = main(["--config", save(config), *words])
    assert result is not None
    folder = Path(result.output_dir)
    assert parse_yaml((folder / "config.yaml").read_text())["trainer"]["logger"] == {
        "class_path": "tests.recording.SecretLogger", "init_args": SECRETS,
    }  # fmt: skip
    holding = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and any(word in file.read_bytes() for word in (b"hunter2", b"47114711"))
    }
    assert holding == {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    for page in ("report/index.html", "report/validation/index.html"):
        text = (folder / page).read_text().partition("<summary>The configuration</summary><pre>")[2]
        shown = parse_yaml(html.unescape(text.partition("</pre>")[0]))
        assert shown["trainer"]["logger"]["init_args"] == {
            **dict.fromkeys(SECRETS, "removed"), "url": "postgresql://host/db"
        }  # fmt: skip
        assert shown["model"] == parse_yaml((folder / "config.yaml").read_text())["model"]


def test_image_of_a_prediction_is_found_near_its_row_when_others_have_failed() -> None:
    from types import SimpleNamespace

    from classifier.commands.report import _loader

    asked: list[int] = []

    class Stage:
        """Of 1000 images, of which 3 and 5 could not be decoded."""

        indices = range(0, 2000, 2)
        source = SimpleNamespace(load=lambda index: np.full((1, 1, 3), index % 256, np.uint8))

        def __len__(self) -> int:
            return 1000

        def path(self, place: int) -> str:
            asked.append(place)
            return f"{place:04d}.png"

    paths = [f"{place:04d}.png" for place in range(1000) if place not in (3, 5)]
    data = SimpleNamespace(stage=lambda name: Stage())
    predictions = SimpleNamespace(paths=[*paths, "gone.png"])
    load = _loader(data, SimpleNamespace(stage="test", predictions=predictions))  # type: ignore[arg-type]
    for row, place in ((0, 0), (3, 4), (4, 6), (997, 999)):
        pixels = load(row)
        assert pixels is not None and pixels[0, 0, 0] == 2 * place % 256
    assert len(asked) <= 4 * 3
    assert load(998) is None
