"""--predict, --test and --val: formats, ranks, the undecided, several views, progress."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pyarrow import parquet

from classifier import main
from classifier.callbacks.predictions import PredictionsWriter
from classifier.errors import ConfigError, Interrupted
from classifier.evaluation.reading import read_predictions
from classifier.runs import Result
from tests.cli.test_use import read
from tests.conftest import COLOURS, write_classes, write_image

ROOT = Path(__file__).parents[2]
FILES = {
    "csv": ["predictions.csv"],
    "parquet": ["predictions.parquet"],
    "json": ["predictions", "predictions.csv"],
}


WHOLE_WAY = ["--trainer.accelerator", "cpu"]  # with Lightning: an option that is the trainer's


@pytest.fixture
def photos(workplace: Path) -> Path:
    write_classes(workplace / "photos", 2)
    (workplace / "photos/bad.png").write_bytes(b"x")
    return workplace / "photos"


def run(checkpoint: Path, *words: str) -> Result:
    result = main([*words, "--ckpt_path", str(checkpoint)])
    assert result is not None and result.status == "completed"
    return result


def named_predictions(folder: str) -> list[str]:
    return sorted(item.name for item in Path(folder).iterdir() if "predictions" in item.name)


@pytest.mark.parametrize("name", FILES)
def test_format_decides_which_files_there_are(trained: Path, photos: Path, name: str) -> None:
    result = run(trained, "--predict", "photos", "--evaluation.format", name)
    assert named_predictions(result.output_dir) == FILES[name]
    assert result.predictions == FILES[name][-1]
    assert (result.num_images, result.num_errors, result.num_undecided) == (7, 1, None)


def test_parquet_holds_what_csv_holds(trained: Path, photos: Path, capfd: Any) -> None:
    tables, said = [], []
    for name in ("csv", "parquet"):
        result = run(trained, "--predict", "photos", "--evaluation.format", name)
        file = Path(result.output_dir, str(result.predictions))
        tables.append(pd.read_csv(file) if name == "csv" else pd.read_parquet(file))
        said.append([line for line in capfd.readouterr().out.splitlines() if "png: " in line])
    pd.testing.assert_frame_equal(tables[0], tables[1], check_dtype=False, rtol=1e-7)
    assert said[0] == said[1] and len(said[0]) == 7


@pytest.mark.parametrize("mode", ["--val", "--test"])
def test_parquet_is_read_back_as_csv_is(trained: Path, workplace: Path, mode: str) -> None:
    both = []
    for name in ("csv", "parquet"):
        result = run(trained, mode, "--evaluation.format", name)
        file = Path(result.output_dir, str(result.predictions))
        both.append(read_predictions(file, "multiclass", sorted(COLOURS)))
    csv, real = both
    assert csv.paths == real.paths and len(csv.paths) >= 6
    assert csv.targets.tolist() == real.targets.tolist()
    assert csv.predicted.tolist() == real.predicted.tolist()
    assert csv.probabilities == pytest.approx(real.probabilities, rel=1e-7)


def test_report_is_made_of_a_parquet_table(trained: Path, workplace: Path) -> None:
    words = ["--evaluation.format", "parquet", "--evaluation.report", "true"]
    result = run(trained, "--test", *words)
    assert result.report is not None and Path(result.output_dir, result.report).is_file()
    assert result.evaluated["test"]["accuracy"] == pytest.approx(result.metrics["test_accuracy"])


@pytest.mark.long
def test_training_with_kept_features_is_judged_on_views_of_images_in_the_format(
    train: Any, config: dict[str, Any]
) -> None:
    config["model"]["init_args"]["freeze_encoder"] = True
    config["data"]["init_args"]["augmentations"]["train"].pop()  # else features are not kept
    settings = {"report": "true", "format": "parquet", "tta": "flips"}
    result = train(
        *(word for key, value in settings.items() for word in (f"--evaluation.{key}", value))
    )
    assert "frozen layers up to" in Path(result.output_dir, "log.txt").read_text()
    assert result.predictions == "predictions.parquet"
    assert Path(result.output_dir, "report/validation/predictions.parquet").is_file()
    quiet = ["--evaluation.report", "false"]
    again = run(Path(result.output_dir), "--test", *quiet)  # the checkpoint carries the settings
    plain = run(Path(result.output_dir), "--test", *quiet, "--evaluation.tta", "null")
    first, second, other = (
        parquet.read_table(Path(found.output_dir, "predictions.parquet")).to_pandas()
        for found in (result, again, plain)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-5)
    assert not (first["score"] == other["score"]).all()


def test_views_agree_in_metrics_and_predictions(trained: Path, workplace: Path) -> None:
    plain = run(trained, "--test")
    result = run(trained, "--test", "--evaluation.tta", "five_crop")
    rows = read(Path(result.output_dir, "predictions.csv"))
    before = read(Path(plain.output_dir, "predictions.csv"))
    assert [row["score"] for row in rows] != [row["score"] for row in before]
    share = sum(row["correct"] == "True" for row in rows) / len(rows)
    assert result.metrics["test_accuracy"] == pytest.approx(share)
    names = sorted(COLOURS)
    losses = [-math.log(float(row[f"prob_{names[int(row['target'])]}"])) for row in rows]
    assert result.metrics["test_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_json_files_hold_three_classes_by_default_and_lead_to_the_image(
    trained: Path, photos: Path
) -> None:
    write_image(photos / "red/00.jpg", COLOURS["red"], 3)
    result = run(trained, "--predict", "photos", "--evaluation.format", "json")
    folder = Path(result.output_dir, "predictions")
    rows = read(Path(result.output_dir, "predictions.csv"))
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.json"))
    assert files == sorted(f"{row['path']}.json" for row in rows) and len(files) == 8
    for row in rows:
        content = json.loads((folder / f"{row['path']}.json").read_text())
        assert content["path"] == row["path"] and Path(content["file"]).is_file()
        assert (content["error"] or "") == row["error"]
        assert (content["label"] or "") == row["label"]
        if not row["error"]:
            best = content["predictions"]
            assert [item["label"] for item in best] == [
                row[n] for n in ("label", "label_2", "label_3")
            ]
            assert [item["probability"] for item in best] == [
                float(row[n]) for n in ("score", "score_2", "score_3")
            ]


def test_json_files_of_paths_that_climb_stay_in_the_folder(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "here").mkdir()
    monkeypatch.chdir(photos / "here")
    paths = ["../red/00.png", str(photos / "blue/00.png")]
    result = run(trained, "--predict", *paths, "--evaluation.format", "json")
    folder = Path(result.output_dir, "predictions")
    found = {json.loads(f.read_text())["path"]: f for f in folder.rglob("*.json")}
    assert set(found) == set(paths)
    assert found["../red/00.png"] == folder / "_up/red/00.png.json"


@pytest.mark.parametrize(("top_k", "ranks"), [("1", 1), ("2", 2), ("100", 3)])
def test_top_k_bounds_ranks_and_is_bounded_by_the_classes(
    trained: Path, photos: Path, top_k: str, ranks: int
) -> None:
    words = ["--evaluation.format", "json", "--evaluation.top_k", top_k]
    result = run(trained, "--predict", "photos", *words)
    columns = list(read(Path(result.output_dir, "predictions.csv"))[0])
    assert [name for name in columns if name.startswith("label")] == [
        "label",
        "label_2",
        "label_3",
    ][:ranks]
    content = json.loads(Path(result.output_dir, "predictions/red/00.png.json").read_text())
    assert len(content["predictions"]) == ranks


def test_undecided_images_are_marked_and_counted(trained: Path, photos: Path, capfd: Any) -> None:
    plain = run(trained, "--predict", "photos")
    scores = sorted(
        float(row["score"])
        for row in read(Path(plain.output_dir, "predictions.csv"))
        if row["score"]
    )
    limit = (scores[2] + scores[3]) / 2
    capfd.readouterr()
    result = run(trained, "--predict", "photos", "--evaluation.abstain_below", str(limit))
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert list(rows[0])[-2:] == ["error", "undecided"]
    for row in rows:
        expected = "" if row["error"] else str(float(row["score"]) < limit)
        assert row["undecided"] == expected and bool(row["label"]) == (not row["error"])
    assert result.num_undecided == 3
    lines = capfd.readouterr().out.splitlines()
    assert lines[-3] == "undecided: 3 of 7 images"
    assert sum(line.endswith(" (undecided)") for line in lines) == 3


def test_undecided_comes_after_the_truth(trained: Path, workplace: Path) -> None:
    result = run(trained, "--test", "--evaluation.abstain_below", "0.5")
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert list(rows[0])[-4:] == ["error", "target", "correct", "undecided"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluation.top_k", "0"], "evaluation.top_k: must be at least 1, got 0."),
        (
            ["--evaluation.abstain_below", "60"],
            "evaluation.abstain_below: must be in [0, 1], got 60",
        ),
        (["--evaluation.format", "xml"], "evaluation.format: "),
        (["--evaluation.tta", "rotate"], "evaluation.tta: "),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    trained: Path, photos: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(trained, "--predict", "photos", *words)
    assert str(caught.value).startswith(message)
    assert not Path("runs").exists()


@pytest.mark.parametrize("mode", ["--predict", "--test"])
def test_parquet_without_pyarrow_is_refused_before_any_work(
    trained: Path, photos: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ["photos"] if mode == "--predict" else []
    with pytest.raises(ConfigError, match=r"^evaluation\.format: .* pip install pyarrow"):
        run(trained, mode, *words, "--evaluation.format", "parquet")
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_prediction_leaves_nothing_in_any_format(
    trained: Path, photos: Path, name: str, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PredictionsWriter.on_predict_batch_end

    def interrupt(self: Any, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(PredictionsWriter, "on_predict_batch_end", interrupt)
    words = ["--data.batch_size", "2", "--evaluation.format", name, *WHOLE_WAY]
    with pytest.raises(Interrupted):
        run(trained, "--predict", "photos", *words)
    (folder,) = (photos.parent / "runs/colours").iterdir()
    assert named_predictions(str(folder)) == []


KILLED = """
import os, signal, sys
from classifier import main
from classifier.callbacks.predictions import PredictionsWriter
original = PredictionsWriter.on_predict_batch_end
def kill(self, *arguments, **more):
    original(self, *arguments, **more)
    if self.table.num_rows >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
PredictionsWriter.on_predict_batch_end = kill
main(sys.argv[1:])
"""


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_killed_prediction_leaves_no_file_of_a_final_name(
    trained: Path, photos: Path, name: str
) -> None:
    words = [
        "--predict",
        "photos",
        "--ckpt_path",
        str(trained),
        "--data.batch_size",
        "2",
        *WHOLE_WAY,
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--evaluation.format", name],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    (folder,) = (photos.parent / "runs/colours").iterdir()
    left = named_predictions(str(folder))
    assert left and all(item.startswith(".") and item.endswith(".tmp") for item in left)


def test_speed_is_told_in_one_line_off_a_terminal(trained: Path, photos: Path) -> None:
    result = run(trained, "--predict", "photos")
    lines = Path(result.output_dir, "log.txt").read_text().splitlines()
    told = [line for line in lines if "images/s" in line]
    assert len(told) == 1 and ": 7 images in " in told[0]


def test_lines_on_the_way_come_at_most_every_ten_seconds(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))  # each look at the clock takes four seconds
    monkeypatch.setattr("classifier.callbacks.progress._now", lambda: float(next(clock)))
    result = run(trained, "--predict", "photos", "--data.batch_size", "1", *WHOLE_WAY)
    lines = Path(result.output_dir, "log.txt").read_text().splitlines()
    told = [line.partition("progress: ")[2] for line in lines if "progress: " in line]
    assert told[0].startswith("3 of 7 images (") and told[-1].startswith("7 images in ")
    assert len(told) == 3


@pytest.mark.long
def test_progress_bar_on_a_terminal_shows_images_per_second(trained: Path, photos: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "--predict", "photos", "--ckpt_path", str(trained),
         *WHOLE_WAY],
        stderr=theirs, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            more = os.read(ours, 4096)
        except OSError:
            break
        if not more:
            break
        said += more
    assert process.wait(timeout=60) == 0
    os.close(ours)
    text = said.decode()
    assert "Predicting" in text and " images/s]" in text and "it/s" not in text
    assert text.count(" images in ") == 1


def test_probabilities_that_are_no_numbers_are_told_and_undecided(
    trained: Path, images: Path, workplace: Path
) -> None:
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    for name, values in content["state_dict"].items():
        if name.endswith("fc.weight"):
            values.fill_(float("nan"))
    torch.save(content, "broken.ckpt")
    words = ["--ckpt_path", "broken.ckpt", "--evaluation.abstain_below", "0.5"]
    result = main(["--predict", str(images / "new"), *words])
    assert result is not None and (result.num_images, result.num_undecided) == (3, 3)
    log = Path(result.output_dir, "log.txt").read_text()
    assert "of 3 of 3 images are not numbers: the model has diverged" in log
