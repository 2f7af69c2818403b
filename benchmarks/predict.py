"""From a trained resnet18 to answers: whole commands, images a second, latency, the first answer.

    python benchmarks/predict.py [--photos FOLDER] [--number 200] [--parts files latency first]
    [--model timm/resnet18] [--size 224] [--precision 32-true] [--accelerator cpu]

FOLDER holds photographs; without it some of 400 x 500 pixels are generated. `files`: a folder to a
CSV file, as processes from start to end, and images a second once started, which is the difference
between all photographs and a few. Ours by its checkpoint and by ONNX, beside a script that does
what timm's inference.py does, transformers.pipeline and onnxruntime by hand, all over the same
model with random weights and four classes. `latency`: the model alone, in every format, for 1
and 16 images. `first`: from the start of a process to its first answer. In bfloat16 all are,
and there is neither an export nor `first`; on a GPU there are 16 times as many photographs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import yaml

from benchmarks import peer_environment
from benchmarks.measuring import Case, Comparison, Quantity, run
from benchmarks.pictures import files_below, with_images, write_photos
from benchmarks.processes import MAIN, ROOT, seconds_of
from benchmarks.subject import BF16, Subject, add_options, folder_of, subject_of

FEW = 8
# Name of a row -> the words behind --export that make its file.
EXPORTS = {
    "onnx fp32": ["onnx"],
    "onnx fp16": ["onnx", "--precision", "fp16"],
    "onnx int8": ["onnx", "--precision", "int8"],
    "torch_export": ["torch_export"],
    "torchscript": ["torchscript"],
}
FIRST = """
import sys
from classifier import Predictor
print(Predictor.load(sys.argv[1]).predict(sys.argv[2]).labels)
"""
USUAL = Subject(size=224)
IN_TRANSFORMERS = ("resnet18", "resnet50", "vit_base_patch16_224")
SECONDS, RATE = Quantity("seconds"), Quantity("images/s", more_is_better=True)
MEDIAN, TAIL = Quantity("ms, p50"), Quantity("ms, p99")


class Models:
    """Everything that is measured, below one folder; made when it is first asked for."""

    def __init__(self, work: Path, subject: Subject) -> None:
        self.work = work
        self.subject = subject

    @functools.cached_property
    def checkpoint(self) -> Path:
        """The model after one step, on four classes."""
        photos = write_photos(self.work / "classes", number=40)
        arguments = {
            "model_name": self.subject.model, "pretrained": False, "image_size": self.subject.size,
        }  # fmt: skip
        config = {
            "custom_folder_name": "trained",
            "model": {"class_path": "classifier.ImageClassifier", "init_args": arguments},
            "data": {
                "class_path": "classifier.ImageDataModule",
                "init_args": {"dataset_classes": {"train": folder_of(photos)}, "num_workers": 2},
            },
            "trainer": {
                "max_epochs": 1, "limit_train_batches": 1, "devices": 1,
                "accelerator": self.subject.accelerator,
            },
            "evaluation": {"report": False},
        }  # fmt: skip
        (self.work / "trained.yaml").write_text(yaml.safe_dump(config))
        seconds_of([*MAIN, "--config", "trained.yaml"], cwd=self.work)
        (run_folder,) = (self.work / "runs/trained").iterdir()
        return run_folder / "checkpoints/best.ckpt"

    def exported(self, name: str) -> Path:
        """The file of one of EXPORTS."""
        folder = self.work / "exports" / name.replace(" ", "_")
        if not folder.exists():
            words = ["--export", *EXPORTS[name], "--ckpt_path", str(self.checkpoint)]
            seconds_of([*MAIN, *words, "--output", str(folder)], cwd=self.work)
        (file,) = folder.glob("model.*")
        return file

    @functools.cached_property
    def peers(self) -> tuple[Path, Path]:
        """A folder for transformers, and a plain ONNX file."""
        found = self.work / "transformers", self.work / "plain.onnx"
        words = peer_environment.command("make_models", *found, self.subject.name)
        seconds_of(words, cwd=self.work)
        return found


def from_files(models: Models, photos: Path, few: Path, with_peers: bool) -> Comparison:
    """Whole processes, and images a second between a few and all photographs."""
    places = itertools.count()

    def timed(words: Callable[[Path, Path], list[str]]) -> tuple[float, float]:
        def seconds(folder: Path) -> float:
            table = models.work / f"{next(places)}.csv"
            return seconds_of(words(folder, table), cwd=models.work)

        start, whole = seconds(few), seconds(photos)
        number = len(files_below(photos)) - len(files_below(few))
        return whole, number / (whole - start) if whole > start else nan

    def ours(model: Path, *more: str) -> Callable[[], tuple[float, float]]:
        def words(folder: Path, table: Path) -> list[str]:
            return [*MAIN, "--predict", str(folder), "--ckpt_path", str(model), *more]

        return lambda: timed(words)

    def peer(script: str, *more: object) -> Callable[[], tuple[float, float]]:
        return lambda: timed(lambda f, t: peer_environment.command(script, f, t, *more))

    bf16 = ["--trainer.precision", BF16]
    subject, where = models.subject, ["--device", models.subject.device]
    named = ["--model", subject.name, "--size", subject.size, *where]
    cases = [
        Case("ours, checkpoint", ours(models.checkpoint), ours=True),
        Case("ours, checkpoint, bf16", ours(models.checkpoint, *bf16), ours=True),
    ]
    references: tuple[str, ...] = (cases[0].name,)
    if not subject.bf16:
        cases.append(Case("ours, ONNX", ours(models.exported("onnx fp32")), ours=True))
    if with_peers and subject.bf16:
        references = ("timm, bf16",)
        cases.append(Case("timm, bf16", peer("predict_timm", "--amp", *named)))
        if subject.name in IN_TRANSFORMERS:
            name, folder = "transformers.pipeline, 64, bf16", models.peers[0]
            references = *references, name
            cases.append(Case(name, peer("predict_transformers", folder, 64, "--bf16", *where)))
    elif with_peers:
        folder, plain = models.peers
        references = "timm", "onnxruntime by hand"
        cases += [
            Case("timm", peer("predict_timm", *named)),
            Case("timm, batches of 32", peer("predict_timm", "--batch_size", 32, *named)),
            Case("timm, bf16", peer("predict_timm", "--amp", *named)),
            Case("transformers.pipeline", peer("predict_transformers", folder)),
            Case("transformers.pipeline, 16", peer("predict_transformers", folder, 16)),
            Case("onnxruntime by hand", peer("predict_onnxruntime", plain)),
        ]
    title = f"{len(files_below(photos))} photographs to CSV"
    return Comparison(
        subject.key("predict.files"), titled(title, subject), tuple(cases), references,
        (SECONDS, RATE), rounds=5,
    )  # fmt: skip


def titled(title: str, subject: Subject) -> str:
    """A title that names the model where it is not the usual one."""
    return title if subject == USUAL else f"{title}, {subject.name}"


def percentiles(answer: Callable[[], object], calls: int) -> tuple[float, float]:
    """Milliseconds of a call: the median, and what one of a hundred exceeds."""
    answer()
    found = []
    for _ in range(calls):
        started = time.perf_counter()
        answer()
        found.append((time.perf_counter() - started) * 1e3)
    return float(np.percentile(found, 50)), float(np.percentile(found, 99))


def latency(models: Models, batch: int, calls: int, with_peers: bool) -> Comparison:
    """The model alone, from uint8 images to probabilities; eager PyTorch from floats to logits."""
    import timm
    import torch

    from classifier import Predictor

    subject, side = models.subject, models.subject.size
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    device = torch.device(subject.device)
    floats = torch.randn(batch, 3, side, side, device=device)
    plain = timm.create_model(subject.name, num_classes=4).eval().to(device)

    def eager() -> object:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, subject.bf16):
            return plain(floats).cpu()

    predictors = {
        "checkpoint fp32": Predictor.load(models.checkpoint, device=subject.device),
        "checkpoint bf16": Predictor.load(
            models.checkpoint, device=subject.device, precision="bf16"
        ),
    }
    if not subject.bf16:
        predictors |= {name: Predictor.load(models.exported(name)) for name in EXPORTS}
    ways: dict[str, Callable[[], object]] = {"eager PyTorch, model alone": eager}
    for name, predictor in predictors.items():
        ways[name] = functools.partial(predictor.route.probabilities, images)
    references = ["eager PyTorch, model alone"]
    if with_peers and not subject.bf16:
        import onnxruntime

        session = onnxruntime.InferenceSession(models.peers[1])
        array = floats.numpy()
        references.append("onnxruntime, model alone")
        ways[references[1]] = lambda: session.run(None, {"images": array})
    cases = tuple(
        Case(name, functools.partial(percentiles, way, calls), ours="alone" not in name)
        for name, way in ways.items()
    )
    title = titled(f"{batch} image{'s' if batch > 1 else ''}, {calls} calls a round", subject)
    key = subject.key(f"predict.latency_{batch}")
    return Comparison(key, title, cases, tuple(references), (MEDIAN, TAIL), rounds=5, warm=False)


def first_answer(models: Models, photo: Path, with_peers: bool) -> Comparison:
    """Seconds from the start of a process to the answer for one photograph."""
    alone = models.work / "alone"
    alone.mkdir()
    shutil.copy(photo, alone)
    place = {**os.environ, "PYTHONPATH": str(ROOT)}

    def ours(model: Path) -> Callable[[], float]:
        words = [sys.executable, "-c", FIRST, str(model), str(photo)]
        return lambda: seconds_of(words, cwd=models.work, env=place)

    def peer(script: str, model: Path) -> Callable[[], float]:
        words = peer_environment.command(script, alone, models.work / "one.csv", model)
        return lambda: seconds_of(words, cwd=models.work)

    cases = [
        Case("Predictor, ONNX", ours(models.exported("onnx fp32")), ours=True),
        Case("Predictor, checkpoint", ours(models.checkpoint), ours=True),
    ]
    references = ["Predictor, ONNX"]
    if with_peers:
        folder, plain = models.peers
        references = ["onnxruntime by hand", "transformers.pipeline"]
        cases.append(Case(references[0], peer("predict_onnxruntime", plain)))
        cases.append(Case(references[1], peer("predict_transformers", folder)))
    key, title = models.subject.key("predict.first"), titled("first answer", models.subject)
    return Comparison(key, title, tuple(cases), tuple(references), rounds=7)


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """What the command line asks for, in a folder that is gone afterwards."""
    with_peers, subject = not given.without_peers, subject_of(given)
    names = 16 if subject.on_gpu and not given.smallest else 1
    number = 3 * FEW if given.smallest else given.number
    given_files = files_below(given.photos.resolve())[:number] if given.photos else []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        work = Path(name)
        photos, few = work / "photos", work / "few"
        photos.mkdir()
        for index, file in enumerate(given_files):
            shutil.copy(file, photos / f"{index:04d}_{file.name}")
        if not given_files:
            write_photos(photos, number, classes=0, names=names)
        few.mkdir()
        for file in files_below(photos)[:FEW]:
            shutil.copy(file, few)
        models = Models(work, subject)
        if "files" in given.parts:
            yield from_files(models, photos, few, with_peers)
        if "latency" in given.parts:
            for batch in (1, 16):
                calls = 3 if given.smallest else 100 // batch + 20
                yield latency(models, batch, calls, with_peers)
        if "first" in given.parts and not subject.bf16:
            yield first_answer(models, files_below(photos)[0], with_peers)


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parts = ["files", "latency", "first"]
    parser.add_argument("--photos", type=with_images)
    parser.add_argument("--number", type=int, default=200, help="of photographs")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    add_options(parser, size=USUAL.size)


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
