"""What a trial of a sweep costs beyond its training: warm server and subprocess, side by side.

    python benchmarks/sweep.py [ROUNDS]        (default: 5)

A trivial training (24 images of 32 x 32 pixels, one epoch) is run three ways, in turn: by main() in
a process that has everything imported; as the trials of a sweep by the warm server; and as those of
a sweep by a process of its own each. A trial's seconds are those from its start to the start of the
next one, so that everything counts: starting, following, judging, the storage and the sampler.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from classifier import main

LR = "model.init_args.optimizer_config.lr"
TRIALS = {"forkserver": 12, "subprocess": 4}


def configuration(root: Path) -> dict[str, Any]:
    """A training that takes no time."""
    resize = {"class_path": "albumentations.Resize", "init_args": {"height": 32, "width": 32}}
    return {
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/test_resnet",
                "pretrained": False,
                "optimizer_config": {"name": "SGD", "lr": 0.01},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "batch_size": 8,
                "num_workers": 0,
                "dataset_classes": {
                    "train": {"class_path": "FolderImageDataset", "init_args": {"root": str(root)}}
                },
                "augmentations": {"train": [resize], "val": [resize]},
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False},
        "evaluation": {"report": False},
    }


def write_images(root: Path) -> None:
    """24 images in two classes."""
    rng = np.random.default_rng(0)
    for index in range(24):
        file = root / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)


def quietly(*words: str) -> None:
    """A command, without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(words)


def in_process(file: Path) -> list[float]:
    """Seconds of each of some trainings in this process."""
    times = []
    for _ in range(6):
        started = time.perf_counter()
        quietly("--config", str(file))
        times.append(time.perf_counter() - started)
    return times[1:]  # the first one imports


def by_sweep(content: dict[str, Any], launcher: str, number: int) -> list[float]:
    """Seconds from the start of each trial to the start of the next."""
    name = f"{launcher}-{number}"
    section = {
        "tune": True,
        "study_name": name,
        "n_trials": TRIALS[launcher],
        "launcher": launcher,
        "metric": "validation_f1_score",
        "direction": "maximize",
        "pruner": "NopPruner",
        "search_spaces": {LR: {"distribution": "loguniform", "low": 1e-5, "high": 1e-1}},
    }
    file = Path(f"{name}.yaml")
    file.write_text(yaml.safe_dump({**content, "optuna": section}))
    quietly("--config", str(file))
    study = optuna.load_study(study_name=name, storage=f"sqlite:///runs/{name}/study.db")
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in study.trials)
    starts = [t.datetime_start.timestamp() for t in study.trials if t.datetime_start is not None]
    return [after - before for before, after in pairwise(starts)]


def run() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    times: dict[str, list[float]] = {"in process": [], "forkserver": [], "subprocess": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        root = Path(folder, "images")
        write_images(root)
        content = configuration(root)
        Path("alone.yaml").write_text(yaml.safe_dump(content))
        for number in range(rounds):
            times["in process"] += in_process(Path("alone.yaml"))
            for launcher in TRIALS:
                times[launcher] += by_sweep(content, launcher, number)
        os.chdir("/")
    alone = statistics.median(times["in process"])
    print("| a trivial training | n | median s | quartiles | over in process | x less |")
    print("|---|---|---|---|---|---|")
    over = {name: statistics.median(values) - alone for name, values in times.items()}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        ratio = f"{over['subprocess'] / over[name]:.0f}" if over[name] > 0 else ""
        print(
            f"| {name} | {len(values)} | {middle:.3f} | {low:.3f}-{high:.3f} "
            f"| {over[name]:+.3f} | {ratio} |"
        )


if __name__ == "__main__":
    run()
