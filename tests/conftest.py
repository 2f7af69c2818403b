"""Fixtures: small real image files, a small real model, and no network."""

from __future__ import annotations

import os

# Tiny models gain nothing from threads, and on a busy machine threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from classifier.entry import main
from classifier.runs import Result

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
SIZE = 32
_real_connect = socket.socket.connect


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """File names that are no UTF-8 cannot be sent by a test process to the one that reports."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves this machine fails."""

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        _real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLASSIFIER_RUN_DIR", raising=False)
    return tmp_path


def write_image(file: Path, colour: tuple[int, int, int], seed: int, size: int = SIZE) -> Path:
    """A noisy image of one colour."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-40, 40, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def write_classes(root: Path, per_class: int = 10, classes: Any = COLOURS, seed: int = 0) -> Path:
    """One folder a class."""
    for number, name in enumerate(classes):
        for index in range(per_class):
            colour = COLOURS.get(name, (number * 60, 120, 90))
            image_seed = seed + 100 * number + index
            write_image(root / name / f"{index:02d}.png", colour, image_seed)
    return root


@pytest.fixture
def images(workplace: Path) -> Path:
    """train/ and test/ with three classes, and new/ without labels."""
    root = workplace / "images"
    write_classes(root / "train", 10)
    write_classes(root / "test", 4, seed=5000)
    for index, colour in enumerate(COLOURS.values()):
        write_image(root / "new" / f"{index}.png", colour, 9000 + index)
    return root


def resize(size: int = SIZE) -> list[dict[str, Any]]:
    return [{"class_path": "albumentations.Resize", "init_args": {"height": size, "width": size}}]


def configuration(root: Path, max_epochs: int) -> dict[str, Any]:
    """A complete configuration that trains in a second on images below a folder."""

    def folder(name: str) -> dict[str, Any]:
        return {"class_path": "FolderImageDataset", "init_args": {"root": str(root / name)}}

    return {
        "seed_everything": 7,
        "custom_folder_name": "colours",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/test_resnet",
                "pretrained": False,
                "optimizer_config": {"name": "AdamW", "lr": 0.003},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "batch_size": 8,
                "num_workers": 0,
                "dataset_classes": {name: folder(name) for name in ("train", "test")},
                "augmentations": {"train": resize(), "val": resize()},
            },
        },
        "trainer": {
            "max_epochs": max_epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,  # tests/callbacks/test_loggers.py has the default
        },
        "evaluation": {"report": False},  # tests/evaluation write theirs
    }


@pytest.fixture
def config(images: Path) -> dict[str, Any]:
    """A configuration with random flips and a folder to predict."""
    content = configuration(images, max_epochs=2)
    arguments = content["data"]["init_args"]
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    arguments["augmentations"]["train"].append(flip)
    arguments["dataset_classes"]["predict"] = {
        "class_path": "FolderImageDataset",
        "init_args": {"root": str(images / "new")},
    }
    return content


@pytest.fixture
def save(workplace: Path) -> Callable[[dict[str, Any]], str]:
    """Write a configuration file and give its path."""

    def write(content: dict[str, Any], name: str = "cfg.yaml") -> str:
        (workplace / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return name

    return write


@pytest.fixture
def train(config: dict[str, Any], save: Any) -> Callable[..., Result]:
    """Train on the fixture's images with some words more on the command line."""

    def run(*words: str) -> Result:
        result = main(["--config", save(config), *words])
        assert result is not None
        return result

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished training, shared by the tests that only use its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        root = folder / "images"
        write_classes(root / "train", 10)
        write_classes(root / "test", 4, seed=5000)
        content = configuration(root, max_epochs=6)
        (folder / "cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        result = main(["--config", "cfg.yaml"])
        assert result is not None
        yield folder / result.output_dir
