"""What a trial of a sweep costs beyond its training: warm server and subprocess, side by side.

    python benchmarks/sweep.py [--rounds 5]

A trivial training (24 images of 32 x 32 pixels, one epoch) is run three ways, in turn: by main() in
a process that has everything imported; as the trials of a sweep by the warm server; and as those of
a sweep by a process of its own each. A trial's seconds are those from its start to the start of the
next one, so that everything counts: starting, following, judging, the storage and the sampler. A
figure is the median of a round's trials.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import Case, Comparison, run
from classifier import main

LR = "model.init_args.optimizer_config.lr"
TRIALS = {"forkserver": 12, "subprocess": 4}
ALONE, SUBPROCESS = "in process", "added by a process of its own"


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


def in_process(file: Path) -> float:
    """Seconds of a training in this process."""
    times = []
    for _ in range(6):
        started = time.perf_counter()
        quietly("--config", str(file))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def by_sweep(content: dict[str, Any], launcher: str, number: int, trials: int) -> float:
    """Seconds from the start of a trial to the start of the next."""
    name = f"{launcher}-{number}"
    section = {
        "tune": True,
        "study_name": name,
        "n_trials": trials,
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
    return statistics.median(after - before for before, after in pairwise(starts))


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One; that a trial of the warm server costs less than a process of its own is the point."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        root = Path(folder, "images")
        write_images(root)
        content = configuration(root)
        Path("alone.yaml").write_text(yaml.safe_dump(content))

        def sweep(launcher: str) -> float:
            trials = 3 if given.smallest else TRIALS[launcher]
            return by_sweep(content, launcher, next(numbers), trials)

        cases = (
            Case(ALONE, lambda: in_process(Path("alone.yaml"))),
            Case("warm server", lambda: sweep("forkserver"), ours=True),
            Case("subprocess", lambda: sweep("subprocess")),
        )
        yield Comparison(
            "sweep", "a trivial training", cases, (ALONE, SUBPROCESS),
            derived={
                "added by the warm server": lambda found: found["warm server"] - found[ALONE],
                SUBPROCESS: lambda found: found["subprocess"] - found[ALONE],
            },
        )  # fmt: skip


if __name__ == "__main__":
    run(__doc__ or "", comparisons)
