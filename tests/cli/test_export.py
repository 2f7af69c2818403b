"""--export: files that answer as their checkpoint does, or no files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import classifier.export.safetensors
from classifier import Predictor, main
from classifier.arguments import parse
from classifier.commands.export import _check_classes, _check_output
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.formats import FILES
from classifier.runs import Result
from tests.conftest import write_image
from tests.model.test_families import VIT

SAFETENSORS = classifier.export.safetensors


def export(checkpoint: Path | str, form: str, *words: str) -> Result:
    result = main(["--export", form, *words, "--ckpt_path", str(checkpoint)])
    assert result is not None
    return result


def record_of(result: Result) -> dict[str, Any]:
    file = Path(result.output_dir, result.export["file"])
    folder = file if file.is_dir() else file.parent
    content: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return content


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def photos(workplace: Path) -> str:
    """Three images of other sizes than the training's."""
    for seed, size in enumerate((20, 41, 90)):
        write_image(workplace / "photos" / f"{seed}.png", (200, 60 * seed, 40), seed, size)
    return "photos"


# What is written


def test_onnx_is_verified_on_the_runs_own_images(
    trained: Path, workplace: Path, capfd: Any
) -> None:
    result = export(trained, "onnx")
    folder = Path(result.output_dir)
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "environment.json", "log.txt", "onnx", "result.json",
    }  # fmt: skip
    assert names(folder / "onnx") == ["export.json", "model.onnx"]
    told = record_of(result)
    content = (folder / "onnx" / "model.onnx").read_bytes()
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["bytes"] == len(content) == result.export["bytes"]
    checkpoint = trained / "checkpoints" / "best.ckpt"
    assert told["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert told["description"]["class_names"] == ["blue", "green", "red"]
    verified = told["verification"]
    assert verified["num_images"] == len(set(verified["images"])) == 32
    assert verified["labels_equal"] and verified["max_difference"] < 1e-4
    assert verified["runtime"] == "onnxruntime" and verified["batch_sizes"] == [1, 8]
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == result.output_dir
    assert lines[1].startswith(f"exported: {result.output_dir}/onnx/model.onnx (")
    assert lines[1].endswith(f" MB, opset {told['description']['opset']}, fp32)")
    assert lines[2].startswith("verified: 32 images, labels equal, probabilities within ")


@pytest.mark.long
@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_format_and_precision(
    trained: Path, workplace: Path, form: str, precision: str
) -> None:
    words = ["--data.init_args.augmentations.val", "null"]
    result = export(trained, form, *words, "--precision", precision)
    told = record_of(result)
    assert told["format"] == form and told["description"]["precision"] == precision
    assert told["verification"]["max_difference"] < {"fp32": 1e-4, "fp16": 1e-2}[precision]
    if form == "huggingface":
        assert told["verification"]["pipeline_difference"] < 1e-2
        card = Path(result.output_dir, form, "README.md").read_text()
        assert "library_name: transformers" in card and "pipeline(" in card


@pytest.mark.long
def test_int8_floats_and_an_older_opset(trained: Path, photos: str) -> None:
    words = ("--precision", "int8", "--input", "float", "--opset", "18")
    told = record_of(export(trained, "onnx", photos, *words))
    described = told["description"]
    assert (described["precision"], described["input"], described["opset"]) == ("int8", "float", 18)
    assert told["verification"]["max_difference"] < 0.1


@pytest.mark.long
def test_calibrated_labels_and_adapters_go_along(
    config: dict[str, Any], train: Callable[..., Result], photos: str
) -> None:
    config["model"]["init_args"] |= {
        "model_name": "timm/vit_tiny_patch16_224", "model_args": VIT, "image_size": 32,
        "lora": {"r": 2, "target_modules": ["attn.qkv", "fc1"]},
    }  # fmt: skip
    config["data"]["init_args"]["augmentations"] = {"train": None, "val": None}
    checkpoint = Path(train().output_dir, "checkpoints", "best.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["image_classifier"]["calibration"]["temperature"] = 2.5
    torch.save(content, checkpoint)
    told = record_of(
        export(checkpoint, "safetensors", "--evaluation.calibrate", "temperature")
    )  # fmt: skip
    assert told["description"]["temperature"] == 2.5
    assert told["verification"]["labels_equal"] and told["verification"]["max_difference"] < 1e-4
    plain = record_of(export(checkpoint, "safetensors", photos))
    assert plain["description"]["temperature"] == 1.0


@pytest.mark.long
def test_several_labels_go_along(
    config: dict[str, Any], train: Callable[..., Result], images: Path
) -> None:
    rows = ["image,label"]
    for file in sorted((images / "train").rglob("*.png")):
        label = file.parent.name
        rows.append(f"{file.relative_to(images)},{label}{'|dark' if label == 'blue' else ''}")
    (images / "labels.csv").write_text("\n".join(rows))
    arguments = {
        "table": str(images / "labels.csv"), "image_column": "image", "target_column": "label",
        "delimiter": "|",
    }  # fmt: skip
    dataset = {"class_path": "CsvImageDataset", "init_args": arguments}
    config["data"]["init_args"]["dataset_classes"] = {"train": dataset}
    config["evaluation"] |= {"tune_thresholds": "f1_score"}
    told = record_of(export(train().output_dir, "onnx"))
    assert told["description"]["task"] == "multilabel"
    assert len(told["description"]["thresholds"]) == 4
    assert told["verification"]["labels_equal"]


# Where it goes


def test_output_takes_the_files_and_nothing_else(trained: Path, photos: str) -> None:
    result = export(trained, "safetensors", photos, "--output", "new/model")
    assert names(Path("new")) == ["model", "model/export.json", "model/model.safetensors"]
    assert result.output_dir == "new/model" and not Path("runs").exists()
    assert record_of(result)["verification"]["images"] == ["0.png", "1.png", "2.png"]
    modes = {path.stat().st_mode for path in Path("new/model").iterdir()}
    assert len(modes) == 1
    alone = Path("new/model/model.safetensors").rename("anywhere.safetensors")
    shutil.rmtree("new")
    (found,) = Predictor.load(alone).predict(["photos/0.png"])  # type: ignore[misc]
    assert found.decided == found.labels[:1]


def test_output_in_use_is_refused(workplace: Path) -> None:
    (workplace / "full").mkdir()
    (workplace / "full" / "file").write_text("")
    (workplace / "link").symlink_to("nowhere")
    (workplace / "busy" / f".{os.getppid()}.tmp").mkdir(parents=True)
    (workplace / "left" / f".{os.getpid()}.tmp").mkdir(parents=True)
    _check_output("left", "experiment")
    for output, problem in (
        ("full", "is there already, and not empty"),
        ("busy", r"another export is being written there, to \.\d+\.tmp"),
        ("full/file", "is a file"),
        ("link", "is a file"),
        ("full/file/new", "nothing can be written to"),
        ("/proc/new", "nothing can be written to /proc"),
    ):
        with pytest.raises(ConfigError, match=f"--output: {problem}.*, got '{output}'. Name a new"):
            _check_output(output, "experiment")
    (workplace / "runs").write_text("")
    with pytest.raises(ConfigError, match=r"--output: nothing can be written to .*/runs"):
        _check_output(None, "experiment")


def test_full_disk_is_found_before_the_work(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9_000_000))
    with pytest.raises(ConfigError, match=r"--output: the disk of .* has room for 9 MB, and wri"):
        export(trained, "safetensors", photos)
    assert not Path("runs").exists()


# What is not kept


def hostile(change: Callable[[Any, Path], None]) -> Callable[..., Any]:
    """A writer that does something else before, or behind, the writing."""
    real = SAFETENSORS.write

    def write(order: Any, folder: Path) -> Any:
        change(order, folder)
        return real(order, folder)

    return write


def test_file_that_answers_otherwise_is_not_kept(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tilt(order: Any, folder: Path) -> None:
        order.network.model.fc.bias.data[0] += 0.01

    monkeypatch.setattr(SAFETENSORS, "write", hostile(tilt))
    with pytest.raises(RunError) as caught:
        export(trained, "safetensors", photos)
    message = str(caught.value)
    assert message.startswith("the exported file does not answer as the checkpoint does: ")
    assert ".png is " in message and "(allowed: 0.0001)" in message
    (run,) = Path("runs/colours").iterdir()
    assert not [name for name in names(run) if "safetensors" in name]
    told = json.loads((run / "result.json").read_text())
    assert told["status"] == "failed" and told["error"] == message and told["export"] == {}


def test_file_that_cannot_be_used_is_not_kept(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SAFETENSORS.write

    def damage(order: Any, folder: Path) -> Any:
        description = real(order, folder)
        file = folder / FILES["safetensors"]
        file.write_bytes(file.read_bytes()[:-1000])
        return description

    monkeypatch.setattr(SAFETENSORS, "write", damage)
    with pytest.raises(RunError, match=r"written, but cannot be used in a process of its own: .*"):
        export(trained, "safetensors", photos, "--output", "model")
    assert names(Path()) == ["photos", *(f"photos/{i}.png" for i in range(3))]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_export_leaves_nothing(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch, there: bool, signum: int
) -> None:
    def interrupt(order: Any, folder: Path) -> None:
        (folder / "half").write_text("")
        os.kill(os.getpid(), signum)

    if there:
        Path("model").mkdir()
    monkeypatch.setattr(SAFETENSORS, "write", hostile(interrupt))
    with pytest.raises(Interrupted) as caught:
        export(trained, "safetensors", photos, "--output", "model")
    assert caught.value.signum == signum
    left = [name for name in names(Path()) if not name.startswith("photos")]
    assert left == (["model"] if there else [])


def test_diverged_checkpoint_is_not_exported(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier.model.classifier import ImageClassifier

    real = ImageClassifier.calibrated
    monkeypatch.setattr(ImageClassifier, "calibrated", lambda self, x: real(self, x) * float("nan"))
    with pytest.raises(RunError, match="the checkpoint's own probabilities are no numbers"):
        export(trained, "safetensors", photos)


# What is refused before any work


def test_moved_data_is_told_with_the_remedy(trained: Path, workplace: Path) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", "model.ckpt")
    words = []
    for stage in ("train", "test"):
        words += [f"--data.init_args.dataset_classes.{stage}.init_args.root", "moved"]
    with pytest.raises(ConfigError, match=r"no such folder.*Name images: --export onnx photos/"):
        export("model.ckpt", "safetensors", *words)
    assert not Path("runs").exists()


def test_moved_data_is_told_once(
    trained: Path, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", "model.ckpt")
    words = []
    for stage in ("train", "test"):
        words += [f"--data.init_args.dataset_classes.{stage}.init_args.root", "moved"]
    with caplog.at_level("INFO"), pytest.raises(ConfigError) as caught:
        export("model.ckpt", "safetensors", *words)
    assert (str(caught.value) + caplog.text).count("no such folder") == 1


def test_preparation_that_no_pipeline_knows_is_refused_before_the_run_folder(
    trained: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(preprocessing: Any) -> None:
        raise ConfigError("resize_mode", "no such way", got=preprocessing.resize_mode)

    with pytest.raises(ConfigError, match=r"augmentations\.val: is no preparation that Hugging"):
        export(trained, "huggingface", photos)
    words = ["--data.init_args.augmentations.val", "null", "--data.init_args.resize_mode", "pad"]
    monkeypatch.setattr("classifier.export.huggingface.timm_data_config", refusing)
    with pytest.raises(ConfigError, match=r"resize_mode: no such way, got 'pad'\."):
        export(trained, "huggingface", photos, *words)
    assert not Path("runs").exists()


def test_export_is_no_checkpoint(trained: Path, photos: str) -> None:
    export(trained, "safetensors", photos, "--output", "model")
    told = r"^ckpt_path: is an export, with which one can only predict, .* from: .*/best\.ckpt\.$"
    for path in ("model", "model/model.safetensors", "model/export.json"):
        Path("cfg.yaml").write_text(json.dumps({"ckpt_path": path}))
        given = ["--ckpt_path", path]
        for words in (["--export", "onnx", *given], ["--test", *given], ["--config", "cfg.yaml"]):
            with pytest.raises(ConfigError, match=told):
                main(words)
    assert not Path("runs").exists()


def test_run_folder_of_an_export_is_no_checkpoint(trained: Path, photos: str) -> None:
    result = export(trained, "safetensors", photos)
    with pytest.raises(ConfigError, match=r"^ckpt_path: is an export, .* made from: .*/best.ckpt"):
        main(["--test", "--ckpt_path", result.output_dir])
    Path("alone.onnx").write_text("")
    with pytest.raises(ConfigError, match=r"^ckpt_path: is an export.* it was made from\.$"):
        main(["--test", "--ckpt_path", "alone.onnx"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--export", "--export: needs a format. Write one of onnx, torch_export, "),
        ("--export ONX", "'onnx'?"),
        ("--export onnx", "--export: needs a checkpoint."),
        ("--export onnx --opset high", "--opset: needs a whole number, at least 1, got 'high'."),
        ("--export torchscript --opset 18", "--opset: goes with --export onnx only, got 18."),
        ("--export torchscript --precision int8", "--precision: int8 goes with --export onnx"),
        ("--export onnx --precision half", "Write one of fp32, fp16, int8."),
        ("--export onnx --input int", "--input: there is no such input, got 'int'."),
        ("--export huggingface --input float", "--input: has no effect beside --export hugging"),
        ("--export onnx --predict", "--predict: stands beside --export;"),
        ("--config x.yaml --precision 16", "--precision: goes with --export only: a training has"),
        ("--test --opset 18", "--opset: goes with --export only."),
        ("--config x.yaml --output x", "--output: goes with --compare and --export only."),
    ],
)
def test_wrong_words_are_told(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words.split())
    assert message in str(caught.value)


def test_options_of_a_trainer_are_refused(trained: Path, workplace: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--trainer\.precision: has no effect beside --export, go"
    ):
        export(trained, "onnx", "--trainer.precision", "16")


def test_missing_packages_are_named(
    trained: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "classifier.commands.export.find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(ConfigError, match=r"not installed: onnxscript\. pip install onnxscript\."):
        export(trained, "onnx")


def test_classes_of_the_users_own_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"exports classifier.ImageClassifier only, got 'Linear'"):
        _check_classes(nn.Linear(1, 1), None)
