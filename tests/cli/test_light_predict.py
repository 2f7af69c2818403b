"""--predict without Lightning: by exports, and by checkpoints of which nothing else is asked."""

from __future__ import annotations

import copy
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from classifier import Predictor, entry, main
from classifier.arguments import parse
from classifier.checkpoints import load_checkpoint
from classifier.commands import light_prediction
from classifier.commands.light_conditions import is_light, wishes
from classifier.errors import ConfigError
from classifier.inference.description import Description
from classifier.inference.precision import Trial, try_half
from classifier.preprocessing import Pixels, Preprocessing
from classifier.runs import Result
from tests.conftest import COLOURS, configuration, write_classes, write_image

ROOT = Path(__file__).parents[2]
# A word that only the whole configuration can answer, and that changes nothing.
WHOLE = ["--trainer.accelerator", "cpu"]
NAMES = ["blue", "green", "red"]


def read(result: Result) -> list[dict[str, str]]:
    file = Path(result.output_dir, str(result.predictions))
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run(checkpoint: Path | str, *words: str) -> Result:
    result = main([*words, "--ckpt_path", str(checkpoint)])
    assert result is not None and result.status == "completed"
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A checkpoint with the encoder's own preprocessing."""
    folder = tmp_path_factory.mktemp("light")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_classes(folder / "train", 8)
        content = configuration(folder, max_epochs=2)
        content["model"]["init_args"]["image_size"] = 64
        content["data"]["init_args"]["dataset_classes"] = {
            "train": content["data"]["init_args"]["dataset_classes"]["train"]
        }
        content["data"]["init_args"]["augmentations"] = None
        (folder / "cfg.yaml").write_text(yaml.safe_dump(content))
        result = main(["--config", "cfg.yaml"])
        assert result is not None
        yield load_checkpoint(Path(result.output_dir, "checkpoints/best.ckpt"))


@pytest.fixture
def checkpoint(finished: dict[str, Any], workplace: Path) -> Callable[..., Path]:
    """Write the checkpoint, with some things otherwise."""

    def write(
        saved: dict[str, Any] | None = None,
        evaluation: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Path:
        content = copy.deepcopy(finished)
        content["image_classifier"].update(saved or {})
        content["config"]["evaluation"].update(evaluation or {})
        content["config"]["data"]["init_args"].update(data or {})
        torch.save(content, workplace / "best.ckpt")
        return workplace / "best.ckpt"

    return write


@pytest.fixture
def photos(workplace: Path) -> Path:
    """Images of many kinds, two of which are none."""
    folder = workplace / "photos"
    write_classes(folder, 2)
    (folder / "bad.png").write_bytes(b"x")
    (folder / "red/empty.jpg").write_bytes(b"")
    pixels = np.random.default_rng(0).integers(0, 255, (333, 500, 3), np.uint8)
    Image.fromarray(pixels).resize((1500, 999)).save(folder / "large.jpg")
    Image.fromarray(pixels[:, :90]).save(folder / "a ü,=.jpeg")
    Image.fromarray(pixels[:70, :, 0]).save(folder / "grey.png")
    alpha = np.dstack([pixels[:80, :80], pixels[:80, :80, :1]])
    Image.fromarray(alpha).save(folder / "red/clear.png")
    return folder


@pytest.fixture
def whole_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the prediction does not stay light."""

    def fail(*_: Any) -> None:
        raise AssertionError("the whole way")

    monkeypatch.setattr(entry, "_execute", fail)


MULTILABEL = {"task": "multilabel", "thresholds": [0.2, 0.5, 0.7]}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "calibrated": {
        "saved": {"calibration": {"temperature": 0.31, "thresholds": None, "positive": None}},
        "evaluation": {"calibrate": "temperature"},
    },
    "several labels": {"saved": MULTILABEL},
    "several labels, tuned": {
        "saved": {
            **MULTILABEL,
            "calibration": {"temperature": 2.5, "thresholds": [0.4, 0.45, 0.5], "positive": None},
        },
        "evaluation": {"calibrate": "temperature", "tune_thresholds": "f1_score"},
    },
    "calibration that is left out": {
        "saved": {"calibration": {"temperature": 9.0, "thresholds": None, "positive": None}}
    },
    "padded on black": {"data": {"resize_mode": "pad", "background": [0, 0, 0]}},
    "squashed, in single batches": {"data": {"resize_mode": "squash", "batch_size": 1}},
    "undecided": {"evaluation": {"abstain_below": 0.6, "top_k": 2}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_come_to_the_same_table(
    checkpoint: Callable[..., Path], photos: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    file = checkpoint(**VARIANTS[variant])
    whole = run(file, "--predict", "photos", *WHOLE)
    monkeypatch.setattr(entry, "_execute", None)
    light = run(file, "--predict", "photos")
    for name in (
        "num_images", "num_errors", "num_undecided", "predictions", "precision", "seed",
        "checkpoint", "metrics", "mode",
    ):  # fmt: skip
        assert getattr(light, name) == getattr(whole, name), name
    rows, others = read(light), read(whole)
    assert len(rows) == 12 and sum(bool(row["error"]) for row in rows) == 2
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        for name, cell in row.items():
            if name.startswith(("score", "prob_")) and cell:
                parts = [
                    [float(number) for number in text.split("|")] for text in (cell, other[name])
                ]
                assert parts[0] == pytest.approx(parts[1], abs=1e-6)
            else:
                assert cell == other[name], name


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_formats_come_to_the_same_files(
    checkpoint: Callable[..., Path], photos: Path, kind: str
) -> None:
    file = checkpoint()
    words = ["--predict", "photos", "photos/large.jpg", "--evaluation.format", kind]
    results = [run(file, *words, *more) for more in ([], WHOLE)]
    folders = [Path(result.output_dir) for result in results]
    found = [
        sorted(f.relative_to(folder).as_posix() for f in folder.rglob("predictions*/**/*.json"))
        for folder in folders
    ]
    assert found[0] == found[1] and len(found[0]) == (12 if kind == "json" else 0)
    for name in found[0]:
        light, whole = (json.loads((folder / name).read_text()) for folder in folders)
        assert {**light, "predictions": None} == {**whole, "predictions": None}
    assert results[0].predictions == results[1].predictions


def test_run_folder_holds_what_the_whole_way_leaves(
    checkpoint: Callable[..., Path], photos: Path, capfd: Any, whole_way: None
) -> None:
    result = run(checkpoint(), "--predict", "photos", "--evaluation.top_k", "2")
    folder = Path(result.output_dir)
    assert folder.parent.as_posix() == "runs/colours"
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == folder.as_posix()
    assert sorted(f.name for f in folder.iterdir()) == [
        "config.yaml", "environment.json", "log.txt", "predictions.csv", "result.json",
    ]  # fmt: skip
    told = json.loads((folder / "result.json").read_text())
    assert (told["status"], told["mode"], told["num_images"]) == ("completed", "predict", 12)
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["data"]["predict"]["num_images"] == 12 and facts["packages"]["torch"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["evaluation"]["top_k"] == 2
    text = (folder / "log.txt").read_text()
    assert "12 images in" in text and "2 of 12 images could not be decoded: bad.png" in text


def test_receipt_names_the_images_as_the_whole_way_does(
    checkpoint: Callable[..., Path], photos: Path
) -> None:
    file, facts = checkpoint(), []
    for more in ([], WHOLE):
        result = run(file, "--predict", "photos", *more)
        facts.append(json.loads(Path(result.output_dir, "environment.json").read_text())["data"])
    assert facts[0] == facts[1]


def test_configuration_names_no_data_and_no_limits_of_the_training_on_either_way(
    checkpoint: Callable[..., Path], photos: Path
) -> None:
    file = checkpoint()
    for more in ([], WHOLE):
        folder = Path(run(file, "--predict", "photos", *more).output_dir)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["data"]["init_args"]["dataset_classes"] == {}
        assert config["trainer"].get("max_epochs") is None
        assert config["data"]["init_args"]["batch_size"] and config["model"]


@pytest.mark.parametrize(
    ("words", "is_whole"),
    [
        (["--evaluation.top_k", "3"], False),
        (["--evaluation.abstain_below", "0.5", "--data.batch_size", "2"], False),
        (["--data.init_args.batch_size", "3", "--custom_folder_name", "mine"], False),
        (["--trainer.precision", "32"], False),
        (["--trainer.precision", "bf16-mixed"], True),
        (["--evaluation.tta", "flips"], True),
        (["--seed_everything", "3"], True),
        (["--allow_module", "tests"], True),
        (["--config", "cfg.yaml"], True),
        (["--print_config"], True),
    ],
)  # fmt: skip
def test_words_decide_which_way_is_taken(
    checkpoint: Callable[..., Path],
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    is_whole: bool,
) -> None:
    Path("cfg.yaml").write_text("seed_everything: 1\n")
    ways: list[str] = []
    monkeypatch.setattr(entry, "_execute", lambda *_: ways.append("whole"))
    result = main(["--predict", "photos", "--ckpt_path", str(checkpoint()), *words])
    assert (bool(ways), result is None) == (is_whole, is_whole)
    if "mine" in words:
        assert result is not None and result.output_dir.startswith("runs/mine/")


def test_folder_of_the_configuration_takes_the_whole_way(
    checkpoint: Callable[..., Path], photos: Path
) -> None:
    file = checkpoint(
        data={"dataset_classes": {"predict": {"class_path": "FolderImageDataset", "init_args": {"root": "photos"}}}}
    )  # fmt: skip
    result = run(file, "--predict", *WHOLE)
    assert result.num_images == 12


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(config)
    *parts, last = path.split(".")
    node = content
    for part in parts:
        node = node[part]
    node[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("trainer.precision", None, True), ("trainer.precision", "32-true", True),
        ("trainer.precision", "16-mixed", True), ("trainer.precision", "64-true", False),
        ("trainer.precision", "bf16-true", False),
        ("trainer.callbacks", [{"class_path": "EarlyStopping", "init_args": {}}], True),
        ("trainer.callbacks", [{"class_path": "mine.Watcher"}], False),
        ("evaluation.tta", "flips", False),
        ("model.class_path", "mine.Model", False), ("data.class_path", "mine.Data", False),
    ],
)  # fmt: skip
def test_configuration_decides_which_way_is_taken(
    finished: dict[str, Any], path: str, value: Any, expected: bool
) -> None:
    saved = finished["image_classifier"]
    assert is_light(changed(finished["config"], path, value), saved) is expected


def test_network_of_ones_own_takes_the_whole_way(finished: dict[str, Any]) -> None:
    saved = {**finished["image_classifier"], "network": {"source": "module"}}
    assert not is_light(finished["config"], saved)


def test_light_prediction_imports_no_training_code(
    checkpoint: Callable[..., Path], photos: Path
) -> None:
    script = """
import sys
blocked = ("lightning", "albumentations", "jsonargparse", "torchmetrics", "pandas", "optuna",
           "transformers", "matplotlib", "sklearn", "pytorch_lightning")
sys.modules.update(dict.fromkeys(blocked))
from classifier.entry import console
raise SystemExit(console(sys.argv[1:]))
"""
    words = ["--predict", "photos", "--ckpt_path", str(checkpoint())]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predictions.csv" in done.stdout


def test_predictor_answers_as_the_command_does(
    checkpoint: Callable[..., Path], photos: Path
) -> None:
    file = checkpoint(**VARIANTS["several labels, tuned"])
    rows = [row for row in read(run(file, "--predict", "photos", *WHOLE)) if not row["error"]]
    predictor = Predictor.load(file)
    found = predictor.predict([photos / row["path"] for row in rows], batch_size=3)
    assert isinstance(found, list)
    chances = predictor.probabilities([photos / row["path"] for row in rows])
    for row, prediction, scores in zip(rows, found, chances, strict=True):
        assert "|".join(prediction.decided) == row["label"]
        expected = [float(row[f"prob_{name}"]) for name in predictor.class_names]
        assert scores == pytest.approx(expected, abs=1e-6)


def test_handler_of_signals_prints_no_tensors_when_it_is_set() -> None:
    # signal.signal asks for the repr of its handler, whose object holds the checkpoint.
    for kind in (light_prediction._Prediction, light_prediction._Source):
        assert kind.__repr__ is object.__repr__


# Exports


class Colours:
    """An export that answers by the mean colour, and may do something before."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.description = Description(
            "onnx", NAMES, "multiclass", Preprocessing(size=(16, 16), resize=(16, 16))
        )
        self.before, self.number = before, 0

    def probabilities(self, images: Pixels) -> Any:
        self.number += 1
        self.before(self.number)
        means = images.reshape(len(images), -1, 3).mean(axis=1)[:, ::-1] + 1.0
        return (means / means.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def export(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def write(route: Any = None, name: str = "pets.onnx") -> Path:
        monkeypatch.setattr(light_prediction, "open_model", lambda model: route or Colours())
        (workplace / name).write_bytes(b"")
        return workplace / name

    return write


def test_export_predicts_into_a_run_folder_of_its_name(
    export: Callable[..., Path], photos: Path, capfd: Any, whole_way: None
) -> None:
    result = run(export(), "--predict", "photos", "--evaluation.abstain_below", "0.999")
    folder = Path(result.output_dir)
    assert folder.parent.as_posix() == "runs/pets"
    assert sorted(f.name for f in folder.iterdir()) == [
        "environment.json", "log.txt", "predictions.csv", "result.json",
    ]  # fmt: skip
    rows = read(result)
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert {row["path"]: row["label"] for row in rows}["blue/00.png"] == "blue"
    assert (result.num_errors, result.num_undecided, result.precision) == (2, 10, "32-true")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == folder.as_posix()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "cfg.yaml"], "--config: does not go with a model of the format onnx"),
        (["--model.model_name", "x"], "--model.model_name: does not go with"),
        (["--trainer.precision", "32"], "--trainer.precision: does not go with"),
        (["--evaluation.tta", "flips"], "--evaluation.tta: does not go with"),
        (["--allow_module", "x"], "--allow_module: does not go with"),
        (["--evaluation.format", "xml"], "evaluation.format: no such format, got 'xml'"),
        (["--evaluation.top_k", "0"], "evaluation.top_k: must be at least 1, got 0"),
        (["--evaluation.top_k", "x"], "evaluation.top_k: must be a whole number, got 'x'"),
        (["--evaluation.abstain_below", "60"], "evaluation.abstain_below: must be in [0, 1]"),
        (["--data.batch_size", "0"], "data.init_args.batch_size: must be at least 1, got 0"),
        (["--data.batch_size", "1.5"], "data.init_args.batch_size: must be a whole number"),
    ],
)  # fmt: skip
def test_export_refuses_what_it_would_ignore(
    export: Callable[..., Path], photos: Path, words: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        main(["--predict", "photos", "--ckpt_path", str(export()), *words])
    assert told in str(error.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("paths", "told"),
    [([], "--predict: needs images"), (["gone.jpg"], "--predict: no such file or folder"),
     (["empty"], "--predict: no images found")],
)  # fmt: skip
def test_export_needs_images(export: Callable[..., Path], paths: list[str], told: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=told):
        main(["--predict", *paths, "--ckpt_path", str(export())])
    assert not Path("runs").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_interrupted_prediction_leaves_no_table(
    export: Callable[..., Path], photos: Path, signum: signal.Signals, kind: str
) -> None:
    def send(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    words = ["--predict", "photos", "--data.batch_size", "2", "--evaluation.format", kind]
    code = entry.console([*words, "--ckpt_path", str(export(Colours(send)))])
    assert code == 128 + signum
    assert signal.getsignal(signum) is before
    (folder,) = Path("runs/pets").iterdir()
    told = json.loads((folder / "result.json").read_text())
    assert (told["status"], told["error"]) == ("interrupted", "ended by a signal")
    assert not [f for f in folder.iterdir() if "predictions" in f.name]


def test_failed_prediction_leaves_no_table(export: Callable[..., Path], photos: Path) -> None:
    def fail(number: int) -> None:
        raise ValueError("broken graph")

    with pytest.raises(ValueError, match="broken graph"):
        main(["--predict", "photos", "--ckpt_path", str(export(Colours(fail)))])
    (folder,) = Path("runs/pets").iterdir()
    told = json.loads((folder / "result.json").read_text())
    assert (told["status"], told["error"]) == ("failed", "ValueError: broken graph")
    assert not (folder / "predictions.csv").exists()


def test_folder_without_one_good_image_has_its_reasons(
    export: Callable[..., Path], workplace: Path
) -> None:
    (workplace / "bad.png").write_bytes(b"x")
    (workplace / "gone.jpg").symlink_to("nowhere.jpg")
    result = run(export(), "--predict", "bad.png", ".")
    assert (result.num_images, result.num_errors) == (2, 2)
    assert all(row["error"] and not row["label"] for row in read(result))


# Half precision


NONE = np.empty(0, np.float32)
WON = Trial(NONE, NONE, 2.1, 0.003, True)


@pytest.mark.parametrize(
    ("change", "is_won", "told"),
    [
        ({}, True, "bf16: 2.1 x float32, probabilities within 0.003"),
        ({"speed": 1.1}, False, "bf16: 1.1 x float32, probabilities within 0.003: float32 is used"),
        ({"difference": 0.02}, False, "probabilities within 0.02: float32 is used"),
        ({"difference": float("nan")}, False, "probabilities within nan: float32 is used"),
        ({"is_same": False}, False, "within 0.003, other labels: float32 is used"),
    ],
)  # fmt: skip
def test_half_precision_is_used_when_it_is_faster_and_says_the_same(
    change: dict[str, Any], is_won: bool, told: str
) -> None:
    trial = WON._replace(**change)
    assert trial.is_won is is_won
    assert told in trial.told("bf16")


@pytest.mark.parametrize(
    ("number", "words", "speed", "precision"),
    [
        (64, [], 2.0, "bf16-mixed"),
        (64, [], 1.0, "32-true"),
        (63, [], 2.0, "32-true"),
        (64, ["--trainer.precision", "32"], 2.0, "32-true"),
    ],
)
def test_half_precision_is_tried_on_many_images_when_nothing_else_is_asked(
    checkpoint: Callable[..., Path],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    words: list[str],
    speed: float,
    precision: str,
) -> None:
    for index in range(number):
        write_image(workplace / f"p/{index:02}.png", list(COLOURS.values())[index % 3], index)
    file = checkpoint()
    exact = read(run(file, "--predict", "p", *WHOLE))
    sizes: list[int] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    original = try_half

    def at_speed(full: Any, half: Any, images: Pixels, description: Description) -> Trial:
        sizes.append(len(images))
        return original(full, half, images, description)._replace(speed=speed)

    monkeypatch.setattr(light_prediction, "try_half", at_speed)
    result = run(file, "--predict", "p", *words)
    assert result.precision == precision
    assert sizes == ([8] if number == 64 and not words else [])
    for row, other in zip(read(result), exact, strict=True):
        assert row["label"] == other["label"]
        assert float(row["score"]) == pytest.approx(
            float(other["score"]), abs=1e-2 if precision == "bf16-mixed" else 1e-6
        )
    # All rows come about in the same way, those of the first batch, too.
    first = [
        row["score"] == other["score"] for row, other in zip(read(result)[:8], exact, strict=False)
    ]
    assert all(first) is (precision == "32-true")


def test_precision_of_a_training_is_no_wish_of_a_prediction() -> None:
    trained_so = {"trainer": {"precision": "32-true"}}
    command = parse(["--predict", "p", "--ckpt_path", "x.ckpt"])
    assert not wishes(command, trained_so).full_precision
    command = parse(["--predict", "p", "--ckpt_path", "x.ckpt", "--trainer.precision", "32"])
    assert wishes(command, {}).full_precision
