"""Parts of benchmarks/growth.py: data sets, their splits, and what is kept of their images on disk.

The files of `folders` and `tables` are empty but for their length, of which each has its own, as
photographs mostly do; those of `check`, `map` and `features` are PNG files of 16 x 16 pixels, no
two alike.
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from benchmarks.growth_probe import Probe

NUM_CLASSES = 100
_SIDE = 16
_BEFORE = 10.0**9  # seconds: files of that age are known by their size and time


def _name(index: int) -> str:
    return f"class_{index % NUM_CLASSES:03d}/image_{index:08d}.png"


def _number_of_files(root: Path, size: int) -> range:
    """What is missing of so many files; takes note that they will be there."""
    noted = root / ".number"
    done = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else 0
    for name in range(NUM_CLASSES):
        (root / f"class_{name:03d}").mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(max(done, size)), encoding="utf-8")
    return range(done, size)


def empty_files(root: Path, size: int) -> None:
    """Make so many files in folders of classes; those that are there stay."""
    for index in _number_of_files(root, size):
        file = os.open(root / _name(index), os.O_CREAT | os.O_WRONLY)
        os.ftruncate(file, index + 1)
        os.close(file)


def table(root: Path, size: int) -> None:
    """The same files with a table of them, `<size>.csv`, in no order."""
    empty_files(root, size)
    with (root / f"{size}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "width", "height"])
        for step in range(size):
            index = step * 7919 % size if size % 7919 else step
            writer.writerow([_name(index), f"class_{index % NUM_CLASSES:03d}", 640, 480])


def pictures(root: Path, size: int) -> None:
    """Make so many PNG files, no two alike; those that are there stay."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    blank = bytes(_SIDE * 3 - 8)
    for index in _number_of_files(root, size):
        line = b"\0" + struct.pack(">Q", index * 0x9E3779B97F4A7C15 % 2**64) + blank
        data = zlib.compress(line * _SIDE, 1)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
        file = root / _name(index)
        with io.FileIO(file, "w") as stream:
            stream.write(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
        os.utime(file, (_BEFORE, _BEFORE))


def _data(train: Any, **options: Any) -> Any:
    from classifier import ImageDataModule
    from classifier.preprocessing import Preprocessing

    data = ImageDataModule(
        dataset_classes={"train": train}, num_workers=0, seed=0, val_fraction=0.1, **options
    )
    data.preprocessing = Preprocessing((_SIDE, _SIDE), (_SIDE, _SIDE))
    return data


def _steps(train: Any, probe: Probe) -> None:
    """What a training does with its images before it looks at one, and once an epoch."""
    from classifier.data.fingerprints import stage_fingerprint

    data = _data(train)
    with probe.step("find the images", keeps=True):
        len(train)
    with probe.step("classes and targets", keeps=True):
        data.setup("fit")
    with probe.step("split, copies looked for", keeps=True):
        stages = [data.stage("train"), data.stage("val")]
    with probe.step("images of each class"):
        data.class_counts()
    with probe.step("fingerprint of the receipt"):
        for stage in stages:
            stage_fingerprint(stage, data.class_names)
    sampler = data.train_dataloader().sampler
    with probe.step("order of an epoch", keeps=True):
        order = iter(sampler)
        next(order)
    with probe.step("an epoch's positions, one after the other"):
        for _ in order:
            pass


def folders(size: int, folder: Path, probe: Probe) -> None:
    """FolderImageDataset."""
    from classifier import FolderImageDataset

    _data(FolderImageDataset(str(folder)))  # what it imports is not measured
    _steps(FolderImageDataset(str(folder)), probe)


def tables(size: int, folder: Path, probe: Probe) -> None:
    """CsvImageDataset."""
    import pandas  # noqa: F401  (is not measured)

    from classifier import CsvImageDataset

    _data(CsvImageDataset(str(folder / f"{size}.csv")))
    _steps(CsvImageDataset(str(folder / f"{size}.csv")), probe)


def check(size: int, folder: Path, probe: Probe) -> None:
    """--check: every file read, near duplicates looked for where imagehash is installed."""
    from classifier import FolderImageDataset
    from classifier.data.checking import entries_of, inspect

    data = _data(FolderImageDataset(str(folder)))
    data.setup("fit")
    stages = [data.stage("train"), data.stage("val")]
    with probe.step("look at every file", keeps=True):
        facts = inspect(entries_of(data), data.class_names)
    assert len(facts.files) == sum(map(len, stages))


def image_map(size: int, folder: Path, probe: Probe) -> None:
    """create_dataset: filled, and opened by a later run."""
    import shutil

    from classifier import FolderImageDataset

    cache = folder / ".cache"
    if not probe.traced:  # the traced process opens what this one filled
        shutil.rmtree(cache, ignore_errors=True)
    for name in ("decode into it", "open it again"):
        data = _data(FolderImageDataset(str(folder)), create_dataset=True, cache_dir=str(cache))
        data.setup("fit")
        data.selection.members("train")
        with probe.step(name, keeps=name == "open it again"):
            data.stage("train")
    probe.disk("on disk", cache)


class _Mean:
    """The cheapest encoder: what an encoder costs is not what is asked here."""

    def digest(self) -> str:
        return "mean of each quarter"

    def encode(self, images: Any) -> Any:
        from torch.nn.functional import adaptive_avg_pool2d

        return adaptive_avg_pool2d(images.float(), 2).flatten(1)


def features(size: int, folder: Path, probe: Probe) -> None:
    """cache_features: filled, and opened by a later run; 12 numbers an image."""
    import shutil

    from classifier import FolderImageDataset
    from classifier.data.features import FeatureCache

    cache = folder / ".features"
    if not probe.traced:
        shutil.rmtree(cache, ignore_errors=True)
    encoded = None
    for name in ("encode into it", "open it again"):
        del encoded
        data = _data(FolderImageDataset(str(folder)))
        data.setup("fit")
        stage = data.stage("train")
        with probe.step(name, keeps=name == "open it again"):
            encoded = FeatureCache(cache, _Mean(), 1, 64, 0).encoded(stage)
        assert encoded is not None
        if name == "open it again":
            with probe.step("an epoch in batches of 1024"):
                for start in range(0, len(encoded), 1024):
                    encoded.__getitems__(range(start, min(start + 1024, len(encoded))))
    probe.disk("on disk", cache)
