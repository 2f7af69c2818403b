"""What a path leads to: files by their ending, folders by what they hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from classifier import Predictor
from classifier.errors import ConfigError
from classifier.formats import FILES, RECORD
from classifier.inference.description import KEY
from classifier.inference.opening import Model, experiment_of, locate

ROOT = Path(__file__).parents[2]


def touch(file: Path, content: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def exported(folder: Path, kind: str) -> Path:
    """A folder as --export leaves it."""
    folder.mkdir(parents=True)
    touch(folder / RECORD, json.dumps({"format": kind}))
    if kind == "huggingface":
        touch(folder / "config.json", json.dumps({KEY: {}}))
        touch(folder / "model.safetensors")
        return folder
    return touch(folder / FILES[kind])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pets.onnx", "onnx"), ("pets.PT2", "torch_export"), ("a.torchscript", "torchscript"),
        ("a.safetensors", "safetensors"), ("best.ckpt", "checkpoint"),
    ],
)  # fmt: skip
def test_file_is_known_by_its_ending(tmp_path: Path, name: str, kind: str) -> None:
    file = touch(tmp_path / name)
    assert locate(file) == locate(str(file)) == Model(kind, file)


@pytest.mark.parametrize("kind", FILES)
def test_export_is_found_by_its_folder_its_record_and_its_run(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "runs/colours/2026-01-01_00-00-00"
    path = exported(run / kind, kind)
    touch(
        run / "result.json",
        json.dumps({"mode": "export", "output_dir": str(run.relative_to(tmp_path))}),
    )
    expected = Model(kind, path)
    assert locate(run / kind) == locate(run / kind / RECORD) == locate(run) == expected
    assert experiment_of(expected) == "colours"
    (run / kind / RECORD).unlink()
    assert locate(run / kind) == expected


def test_weights_of_a_hugging_face_folder_stand_for_the_folder(tmp_path: Path) -> None:
    folder = exported(tmp_path / "pets", "huggingface")
    assert locate(folder / "model.safetensors") == Model("huggingface", folder)
    assert experiment_of(locate(folder)) == "pets"


def test_name_of_the_experiment_is_that_of_the_file_or_its_folder(tmp_path: Path) -> None:
    assert experiment_of(locate(touch(tmp_path / "x/pets.onnx"))) == "pets"
    assert experiment_of(locate(exported(tmp_path / "y/z", "onnx"))) == "z"
    assert experiment_of(locate(exported(tmp_path / "pets/onnx", "onnx"))) == "pets"


def test_run_folder_of_a_training_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    best = touch(tmp_path / "checkpoints/best.ckpt")
    touch(tmp_path / "checkpoints/last.ckpt")
    assert locate(tmp_path) == Model("checkpoint", best)


@pytest.mark.parametrize(
    ("files", "name", "told"),
    [
        ({}, "gone.onnx", "no such file or folder, got "),
        ({"model.onnx": ""}, "modle.onnx", "Did you mean 'model.onnx'?"),
        ({"a.jpg": "x"}, "a.jpg", "is no model, got "),
        ({"x/model.onnx": "", "x/model.pt2": ""}, "x", "the folder holds several models"),
        ({"x/a.txt": ""}, "x", "the folder holds no checkpoints/best.ckpt"),
        ({"x/export.json": '{"format": "../../etc"}'}, "x", "export.json names no model"),
        ({"x/export.json": '{"format": "onnx"}'}, "x", "export.json names no model"),
        ({"x/export.json": "{"}, "x", "export.json cannot be read"),
        ({"x/result.json": '{"mode": "export"}'}, "x", "the export of this run was not completed"),
        ({}, "https://x.org/model.onnx", "remote"),
    ],
)  # fmt: skip
def test_mistake_is_told_with_what_to_give(
    tmp_path: Path, files: dict[str, str], name: str, told: str
) -> None:
    for file, content in files.items():
        touch(tmp_path / file, content)
    with pytest.raises(ConfigError, match=r"^ckpt_path: ") as error:
        locate(name if "://" in name else tmp_path / name)
    assert told in str(error.value)


@pytest.mark.parametrize("word", [{"device": "cpu"}, {"precision": "bf16"}, {"compile": True}])
def test_option_is_refused_where_the_format_has_it_not(
    tmp_path: Path, word: dict[str, str]
) -> None:
    file = touch(tmp_path / "model.onnx")
    (name,) = word
    with pytest.raises(ConfigError, match=f"^{name}: has no effect on a model of the format onnx"):
        Predictor.load(file, **word)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "model.torchscript"])
def test_runtime_that_is_not_installed_is_named(tmp_path: Path, name: str) -> None:
    file = touch(tmp_path / name)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from classifier import Predictor\nfrom classifier.errors import ConfigError\n"
        "try:\n    Predictor.load(sys.argv[1])\n"
        "except ConfigError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.startswith("ckpt_path: a model of the format "), done.stderr
    assert "needs torch, which is not installed" in done.stdout
    assert "pip install" in done.stdout and "--export onnx" in done.stdout


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_library_of_a_network_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    def opened(folder: Path) -> None:
        raise ModuleNotFoundError(f"No module named '{library}.models'", name=f"{library}.models")

    monkeypatch.setattr("classifier.inference.huggingface_route.open_folder", opened)
    with pytest.raises(ConfigError, match=f"huggingface needs {library}, which is not installed"):
        Predictor.load(exported(tmp_path / "pets", "huggingface"))
