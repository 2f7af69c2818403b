"""A program with the manners of a training, in milliseconds: what a sweep is tested with.

It leaves the files that a training leaves, obeys SIGTERM by writing a checkpoint, goes on from one,
and does on request what goes wrong in real life. Every start is noted in starts.txt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from classifier.files import write_text
from classifier.runs import trial_folder

METRIC = "validation_f1_score"


def curve(x: float, epoch: int) -> float:
    """The metric after an epoch: best at x = 0.3, and rising."""
    return (1 - (x - 0.3) ** 2) * (1 - 0.5 ** (epoch + 1))


def program(words: Sequence[str]) -> int:
    """Check a configuration, or train by it."""
    options = dict(zip(words[::2], words[1::2], strict=False)) if words[0] != "--check" else {}
    config = yaml.safe_load(Path(options.get("--config", words[-1])).read_text())
    folder = trial_folder()
    assert folder is not None
    if words[0] == "--check":
        plain = {key: value for key, value in config.items() if key != "optuna"}
        facts = {"num_devices": 1, "num_gpus": 0, "config": plain}
        (folder / "survey.json").write_text(json.dumps(facts))
        return 0
    return _train(config, folder, options.get("--ckpt_path"))


def _train(config: dict[str, Any], folder: Path, checkpoint: str | None) -> int:
    x, behaviour = config["model"]["x"], config["model"].get("behaviour", "well")
    epochs, pause = config["trainer"]["max_epochs"], config["trainer"].get("pause", 0.0)
    first = int(Path(checkpoint).read_text()) if checkpoint else 0
    with open("starts.txt", "a") as file:
        environment = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        file.write(f"{folder.name} {os.getpid()} {first} {environment}\n")
    if config["trainer"].get("precision") == "auto":  # each finds something else
        config["trainer"]["precision"] = f"measured-{folder.name}"
        write_text(folder / "config.yaml", yaml.safe_dump(config))
    if behaviour != "well":
        return _misbehave(behaviour, folder)
    (folder / "checkpoints").mkdir()
    lines = ["epoch,step,validation_f1_score"]
    lines += [f"{epoch},{epoch},{curve(x, epoch)}" for epoch in range(first)]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    for epoch in range(first, epochs):
        time.sleep(pause)
        lines.append(f"{epoch},{epoch},{curve(x, epoch)}")
        # Whole or not at all, as a training writes them: it may be killed at any moment.
        write_text(folder / "metrics.csv", "\n".join(lines) + "\n")
        write_text(folder / "checkpoints" / "last.ckpt", str(epoch + 1))
    value = curve(x, epochs - 1)
    if "noise" in config["model"]:  # and nothing else: no x is better than another
        value = (
            0.8
            + config["model"]["noise"] * random.Random(f"{x} {config['seed_everything']}").gauss()
        )
    _finish(folder, value, epochs)
    return 0


def _finish(folder: Path, value: Any, epochs: int = 1) -> None:
    metrics = {METRIC: value, "num_parameters": 100.0}
    content = {"status": "completed", "metrics": metrics, "num_epochs": epochs}
    write_text(folder / "result.json", json.dumps(content))


def _misbehave(behaviour: str, folder: Path) -> int:
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "error":
        (folder / "error.txt").write_text("model.x: is broken.")
        return 1
    elif behaviour == "traceback":
        raise RuntimeError("the roof is on fire")
    elif behaviour == "nan":
        _finish(folder, None)
    elif behaviour == "garbage":
        (folder / "result.json").write_text("{not json")
    elif behaviour == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    else:
        assert behaviour == "silent"
    return 0
