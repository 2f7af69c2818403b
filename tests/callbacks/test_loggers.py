"""TensorBoard by default, the user's own loggers in its place, and pictures for those that show some."""

from __future__ import annotations

import csv
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier import main
from classifier.callbacks.loggers import EventFiles, log_figures
from classifier.callbacks.table import read_rows
from classifier.entry import console
from tests.recording import MLFlowLogger, RecordingLogger, WandbLogger


@pytest.fixture(autouse=True)
def default_loggers(config: dict[str, Any]) -> None:
    del config["trainer"]["logger"]


def events(folder: str | Path) -> Any:
    """All event files of a folder, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Any = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder: str | Path) -> dict[str, dict[int, float]]:
    found = events(folder)
    names = found.Tags()["scalars"]
    return {name: {event.step: event.value for event in found.Scalars(name)} for name in names}


def table(folder: str | Path) -> dict[str, dict[int, float]]:
    rows = read_rows(Path(folder, "metrics.csv"))
    return {
        name: {int(row["step"]): float(row[name]) for row in rows if row[name]}
        for name in rows[0]
        if name != "step"
    }


def assert_same(logged: dict[str, dict[int, float]], written: dict[str, dict[int, float]]) -> None:
    assert logged.keys() == written.keys()
    for name, values in written.items():
        assert logged[name].keys() == values.keys(), name
        for step, value in values.items():
            assert logged[name][step] == pytest.approx(value, rel=1e-6), (name, step)


def event_files(folder: str | Path) -> list[str]:
    return sorted(file.name for file in Path(folder).glob("*tfevents*"))


def test_tensorboard_has_what_the_table_has_under_the_same_names(train: Any) -> None:
    folder = train("--trainer.log_every_n_steps", "1").output_dir
    assert len(event_files(folder)) == 1
    assert {"train_loss_step", "validation_f1_score", "epoch"} <= scalars(folder).keys()
    assert_same(scalars(folder), table(folder))
    assert not Path(folder, "hparams.yaml").exists()  # config.yaml has them


@pytest.mark.parametrize("words", [["--trainer.logger", "false"], ["--trainer.fast_dev_run", "2"]])
def test_nothing_is_written_for_tensorboard_when_it_is_not_wanted(
    train: Any, words: list[str]
) -> None:
    assert event_files(train(*words).output_dir) == []


def test_trial_has_no_event_files_and_writes_the_table(
    train: Any, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "trial").mkdir()
    monkeypatch.setenv("CLASSIFIER_TRIAL_DIR", str(workplace / "trial"))
    train()
    assert event_files(workplace / "trial") == []
    assert (workplace / "trial" / "metrics.csv").is_file()


def test_own_logger_takes_the_place_of_tensorboard_and_is_told_the_same(
    config: dict[str, Any], train: Any
) -> None:
    config["trainer"]["logger"] = {"class_path": "tests.recording.RecordingLogger"}
    folder = train().output_dir
    assert event_files(folder) == []
    told: dict[str, dict[int, float]] = {}
    for step, row in RecordingLogger.latest.rows:
        for name, value in row.items():
            told.setdefault(name, {})[step or 0] = float(value)
    assert_same(told, table(folder))


def test_several_loggers_log_the_same_names(config: dict[str, Any], train: Any) -> None:
    config["trainer"]["logger"] = [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
        {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "logs"},
        },
    ]
    folder = train("--trainer.log_every_n_steps", "1").output_dir
    assert event_files(folder) == []
    (file,) = Path("logs").rglob("metrics.csv")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(rows[0]) == {*table(folder), "step"}
    (event_file,) = Path("logs").rglob("*tfevents*")
    logged = {k: v for k, v in scalars(event_file.parent).items() if k != "hp_metric"}
    assert_same(logged, table(folder))


def test_curves_go_on_where_a_training_is_resumed(config: dict[str, Any], save: Any) -> None:
    config["trainer"]["callbacks"] = [
        {"class_path": "tests.cli.interrupting.SendSignal", "init_args": {"signum": 15, "step": 4}}
    ]
    words = ["--config", save(config), "--trainer.log_every_n_steps", "1"]
    assert console(words) == 143
    (first,) = Path("runs/colours").iterdir()
    before = event_files(first)
    config["trainer"]["callbacks"] = []
    result = main(["--config", save(config), *words[2:], "--ckpt_path", "last"])
    assert result is not None
    assert len(event_files(result.output_dir)) == 2 and event_files(first) == before
    assert_same(scalars(result.output_dir), table(result.output_dir))
    assert scalars(result.output_dir)["validation_loss"].keys() == {2, 5}


def test_training_goes_on_without_when_tensorboard_is_not_installed(
    train: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr("classifier.callbacks.loggers.find_spec", lambda name: None)
    assert event_files(train().output_dir) == []
    assert "TensorBoard" not in capfd.readouterr().err


def test_training_goes_on_with_a_warning_when_tensorboard_is_broken(
    train: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train("--trainer.logger", "true")
    assert result.status == "completed" and event_files(result.output_dir) == []
    assert "no TensorBoard (" in capfd.readouterr().err


@pytest.fixture
def picture(workplace: Path) -> Path:
    """Two pixels wide: red, and black that is wholly transparent."""
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.save("confusion.png")
    return workplace / "confusion.png"


EXPECTED = np.array([[[255, 0, 0], [255, 255, 255]]], dtype=np.uint8)


def test_pictures_are_shown_in_tensorboard_after_the_training(
    workplace: Path, picture: Path
) -> None:
    from matplotlib.figure import Figure

    logger = EventFiles(workplace)
    logger.log_metrics({"train_loss": 1.0}, 0)
    logger.finalize("success")
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    log_figures([logger], {"confusion": picture, "curve": figure}, 12)
    log_figures([logger], {"confusion": picture}, 24)
    found = events(workplace)
    assert found.Tags()["images"] == ["confusion", "curve"]
    # One file each, whose names end in a count of all that this process has written.
    assert sorted(event.step for event in found.Images("confusion")) == [12, 24]
    (curve,) = found.Images("curve")
    assert (curve.width, curve.height) == (200, 100)
    stored = Image.open(BytesIO(found.Images("confusion")[0].encoded_image_string))
    assert np.array_equal(np.asarray(stored), EXPECTED)
    assert found.Tags()["scalars"] == ["train_loss"]


def test_pictures_are_shown_in_the_loggers_that_can(picture: Path) -> None:
    class Own(WandbLogger):
        """A subclass of the user's."""

    wandb, mlflow, plain = Own(), MLFlowLogger(), RecordingLogger()
    log_figures([plain, wandb, mlflow], {"confusion": picture}, 12)
    image, step = wandb.pictures["confusion"]
    assert step == 12 and np.array_equal(image, EXPECTED)
    assert np.array_equal(mlflow.pictures["run-7", "confusion.png"], EXPECTED)
    assert plain.rows == []


def test_grey_picture_has_three_channels(workplace: Path) -> None:
    Image.new("L", (3, 2), 51).save("grey.png")
    logger = WandbLogger()
    log_figures([logger], {"grey": Path("grey.png")}, 0)
    image, _ = logger.pictures["grey"]
    assert np.array_equal(image, np.full((2, 3, 3), 51, dtype=np.uint8))
