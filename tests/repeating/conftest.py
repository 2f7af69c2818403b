"""Several trainings by a program that takes no time, started in this process."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.arguments import parse
from classifier.config import assembled, read_config
from classifier.repeating import driver
from classifier.repeating.summary import RepeatResult
from classifier.tuning.launching import Child

NO_PROCESS = 2**30  # above the largest number that a process can have
NUM_IMAGES = 23
CLASSES = ("cat", "dog")


class FakeLauncher:
    """Does what a training, a validation and a test leave behind, and notes each.

    Args:
        fail: Names of run folders, below that of the whole, whose command fails.
    """

    def __init__(self, fail: Sequence[str] = ()) -> None:
        self.fail = list(fail)
        self.started: list[list[str]] = []

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
        self.started.append(list(words))
        code = self._carry_out(list(words), folder)
        return Child(NO_PROCESS, lambda: code)

    def _carry_out(self, words: list[str], folder: Path) -> int:
        if words[0] == "--check":
            config = yaml.safe_load(Path(words[-1]).read_text())
            facts = {
                "config": {**config, "evaluation": SETTINGS}, "num_devices": 1,
                "class_names": list(CLASSES), "task": "multiclass",
            }  # fmt: skip
            (folder / "survey.json").write_text(json.dumps(facts))
            return 0
        if any(folder.as_posix().endswith(name) for name in self.fail):
            (folder / "error.txt").write_text("the roof is on fire")
            return 1
        source = Path(words[1]) if words[0] == "--config" else folder.parent / "config.yaml"
        config = yaml.safe_load(source.read_text())
        if words[0] == "--config" and config["trainer"].get("precision") == "auto":
            config["trainer"]["precision"] = f"measured-{folder.name}"  # each finds something else
            source.write_text(yaml.safe_dump(config))
        arguments, seed = config["data"]["init_args"], config["seed_everything"]
        chance = random.Random(f"{seed} {arguments.get('fold')}")
        metrics = {"validation_loss": chance.random(), "num_parameters": 10.0}
        if words[0] == "--val":
            metrics = {"validation_loss": metrics["validation_loss"]}
            write_predictions(folder / "predictions.csv", arguments["folds"], arguments["fold"])
        elif words[0] == "--test":
            metrics = {"test_accuracy": chance.random()}
        content = {"status": "completed", "metrics": metrics, "num_epochs": 2, "wall_seconds": 1.5}
        (folder / "result.json").write_text(json.dumps(content))
        return 0

    @property
    def trained(self) -> list[str]:
        """Names of the folders in which a training began."""
        return [Path(words[1]).parent.name for words in self.started if words[0] == "--config"]


SETTINGS = {"positive_class": None, "abstain_below": None, "report": False}


def image(index: int) -> str:
    """The path of an image; one is named so that a spreadsheet would calculate it."""
    return "./=5/1.png" if index == 5 else f"{CLASSES[index % 2]}/{index:02d}.png"


def write_predictions(file: Path, folds: int, fold: int) -> None:
    """Every image whose number falls to the fold; of the last one there is no answer."""
    names = [
        "path",
        "label",
        "index",
        "score",
        "prob_cat",
        "prob_dog",
        "error",
        "target",
        "correct",
    ]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow(names)
        for index in range(fold, NUM_IMAGES, folds):
            target = index % 2
            told = target if index % 7 else 1 - target
            cells = [CLASSES[told], told, 0.8, 0.2 if told else 0.8, 0.8 if told else 0.2, ""]
            if index == NUM_IMAGES - 1:
                cells, told = ["", "", "", "", "", "is no image"], -1
            writer.writerow([image(index), *cells, target, "" if told < 0 else told == target])


@pytest.fixture
def tree() -> dict[str, Any]:
    """A configuration that the fake program understands."""
    return {
        "seed_everything": 42,
        "custom_folder_name": "study",
        "model": {},
        "data": {"init_args": {"dataset_classes": {"train": {}}}},
        "trainer": {"max_epochs": 2},
    }


@pytest.fixture
def several(
    workplace: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RepeatResult]:
    """Run a command over a fake launcher; without `--config` where `alone`."""

    def run(launcher: Any, *words: str, alone: bool = False) -> RepeatResult:
        monkeypatch.setattr(driver, "start_launcher", lambda *_: launcher)
        monkeypatch.setattr(driver, "launcher_of", lambda *_: launcher)
        (workplace / "cfg.yaml").write_text(yaml.safe_dump(tree))
        command = parse([*words] if alone else ["--config", "cfg.yaml", *words])
        layers = [read_config(path) for path in command.configs]
        config = assembled(layers, command.overrides)
        return driver.repeat(config, command, "cfg", time.time(), lambda _: 0, "")

    return run
