"""Where the time of one training epoch goes: a profile, seconds and shares.

    python benchmarks/epoch.py [--images FOLDER] [--batch 32] [--workers 0 1] [--write]
    [--model timm/resnet18] [--size 128] [--accelerator cpu]

FOLDER holds one sub-folder for each class; without it photographs of 400 x 500 pixels are
generated; a fifth of them is validated on. The training is that of `main.py` with a random crop and
a flip, its second epoch is profiled by Lightning's profiler (benchmarks/profiling.py), in float32
with channels_last and as the program chooses where precision and memory format are left open: it is
told of a training long enough to measure them, which ends after two epochs. `--write` puts the
table into benchmarks/README.md. Exit code 1: a training failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from benchmarks.measuring import shown
from benchmarks.pictures import files_below, with_classes, write_photos
from benchmarks.processes import MAIN, seconds_of
from benchmarks.profiling import ORDER
from benchmarks.results import machine, placed
from benchmarks.subject import FLOAT32, Subject, add_options, at_least, folder_of, subject_of

README = Path(__file__).parent / "README.md"
SCRIPT = "benchmarks/epoch.py"
LONG = 3000  # steps of a training for which measuring pays
EPOCHS = 2  # the first one starts workers and warms up


def configuration(
    subject: Subject, images: Path, batch: int, workers: int, chosen: bool, file: Path
) -> dict[str, Any]:
    """A training with a profiler.

    Args:
        subject: The model, and on what.
        images: Folder with one sub-folder for each class.
        batch: Images a step.
        workers: Processes that decode.
        chosen: Leave precision and memory format open; else float32 and channels_last.
        file: Where the profile goes.
    """
    size = subject.size
    crop = {"class_path": "albumentations.RandomResizedCrop", "init_args": {"size": [size, size]}}
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    profiler = {"class_path": "benchmarks.profiling.EpochProfile", "init_args": {"file": str(file)}}
    stop = {"class_path": "benchmarks.profiling.StopAfter", "init_args": {"epochs": EPOCHS}}
    steps = max(1, round(0.8 * len(files_below(images)) / batch))
    return {
        "custom_folder_name": "profile",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": subject.model, "pretrained": False, "image_size": size,
                "channels_last": None if chosen else True,
                "optimizer_config": {"name": "AdamW", "lr": 1e-3},
            },
        },
        "data": {
            "class_path": "classifier.ImageDataModule",
            "init_args": {
                "dataset_classes": {"train": folder_of(images)}, "batch_size": batch,
                "num_workers": workers, "augmentations": {"train": [crop, flip]},
            },
        },
        "trainer": {
            "max_epochs": max(EPOCHS, LONG // steps) if chosen else EPOCHS,
            "accelerator": subject.accelerator, "devices": 1,
            "precision": None if chosen else FLOAT32, "profiler": profiler, "callbacks": [stop],
        },
        "evaluation": {"report": False},
    }  # fmt: skip


def profiled(
    subject: Subject, images: Path, batch: int, workers: int, chosen: bool
) -> tuple[str, dict[str, float]]:
    """How the epoch was computed, in words, and the seconds of its parts."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        profile = place / "profile.json"
        content = configuration(subject, images, batch, workers, chosen, profile)
        (place / "profile.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        words = [*MAIN, "--allow_module", "benchmarks", "--config", "profile.yaml"]
        seconds_of(words, cwd=place)
        (file,) = place.glob("runs/profile/*/config.yaml")
        made = yaml.safe_load(file.read_text(encoding="utf-8"))
        return named(made, workers, chosen), json.loads(profile.read_text(encoding="utf-8"))


def named(config: Mapping[str, Any], workers: int, chosen: bool) -> str:
    """What a column is called: precision, memory format, workers."""
    memory = config["model"]["init_args"]["channels_last"]
    words = [str(config["trainer"]["precision"])]
    words += ["channels_last"] if memory else ["contiguous"] if memory is False else []
    words.append("1 worker" if workers == 1 else f"{workers} workers")
    return ", ".join(words) + (" (chosen)" if chosen else "")


def table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds and shares of Markdown; the last row is the whole epoch.

    Args:
        title: Head of the first column.
        columns: Name -> part -> seconds.
    """
    rows = [[title, *columns], ["---"] * (len(columns) + 1)]
    for part in ORDER:
        cells = []
        for seconds in columns.values():
            own, whole = seconds.get(part, 0.0), sum(seconds.values())
            cells.append(f"{shown(own)} s ({own / whole:.1%})")
        rows.append([part, *cells])
    rows.append(["the epoch", *(f"{shown(sum(s.values()))} s" for s in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=with_classes)
    parser.add_argument("--number", type=at_least(8), default=480, help="of generated photographs")
    parser.add_argument("--batch", type=at_least(2), default=32)
    parser.add_argument("--workers", type=at_least(0), nargs="+", default=[0, 1])
    parser.add_argument("--write", action="store_true", help="put it into benchmarks/README.md")
    add_options(parser, size=128)
    return parser.parse_args()


def main() -> None:
    """Profile, print, and write where it is asked for."""
    given = arguments()
    subject = subject_of(given)
    where = machine(
        int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))), subject.on_gpu
    )
    with tempfile.TemporaryDirectory() as name:
        images = given.images.resolve() if given.images else Path(name, "photos")
        if given.images is None:
            write_photos(images, given.number)
        columns = {}
        for workers in given.workers:
            for chosen in (False, True):
                words, seconds = profiled(subject, images, given.batch, workers, chosen)
                columns[words] = seconds
        number = round(0.8 * len(files_below(images)))
    title = f"{subject.name} at {subject.size} px, {number} photographs"
    text = f"{where}\n\n{table(title, columns)}"
    if subject.on_gpu:
        text += "\n\nThe program waits for the GPU at the begin and the end of every part."
    print(text)
    if given.write:
        kept = README.read_text(encoding="utf-8")
        name = "epoch on a GPU" if subject.on_gpu else "epoch"
        README.write_text(placed(kept, name, text, SCRIPT), encoding="utf-8")


if __name__ == "__main__":
    main()
