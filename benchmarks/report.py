"""The report: seconds from predictions.csv to figures with intervals, pictures and the page.

    python benchmarks/report.py [--number 10000] [--rounds 3]

Each is a process of its own, that has torch and torchmetrics imported, as a training has;
matplotlib, pandas and jinja2 count. `several` are 20 labels per image. The peer is a short script
as it is written by hand over the same table: scikit-learn's classification report, a picture of its
confusion matrix, a ROC curve, no intervals.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.measuring import Case, Comparison, run

ROOT = Path(__file__).parents[1]
PEER = "10 classes by hand"
KINDS = {"2": 2, "10": 10, "200": 200, "1000": 1000, "several": 20}
WORK = """
import sys, time
from pathlib import Path
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.reading import read_predictions
from classifier.evaluation.report import write_report
table, task, folder = sys.argv[1:]
started = time.perf_counter()
evaluation = evaluate(read_predictions(Path(table), task), "test")
write_report(Path(folder), [evaluation], lambda row: None, title="benchmark")
print(time.perf_counter() - started)
"""
BY_HAND = """
import sys, time
from pathlib import Path
import torch, torchmetrics
table, task, folder = sys.argv[1:]
started = time.perf_counter()
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, classification_report
rows = pd.read_csv(table)
scores = rows.filter(like="prob_").to_numpy()
Path(folder).mkdir(exist_ok=True)
Path(folder, "report.txt").write_text(classification_report(rows.target, rows["index"]))
ConfusionMatrixDisplay.from_predictions(rows.target, rows["index"], include_values=False)
plt.savefig(Path(folder, "confusion.png"))
RocCurveDisplay.from_predictions(rows.target == 1, scores[:, 1])
plt.savefig(Path(folder, "roc.png"))
print(time.perf_counter() - started)
"""


def write_table(file: Path, kind: str, num_images: int) -> None:
    """A predictions.csv of random predictions that are right more often than not."""
    rng = np.random.default_rng(0)
    number, several = KINDS[kind], kind == "several"
    targets = rng.integers(number, size=num_images)
    truth = rng.random((num_images, number)) < 0.2 if several else np.eye(number)[targets] > 0
    logits = rng.normal(size=truth.shape) + 3.0 * truth - 1.0
    scores = 1 / (1 + np.exp(-logits)) if several else np.exp(logits)
    scores = scores if several else scores / scores.sum(axis=1, keepdims=True)

    def joined(flags: np.ndarray) -> str:
        return "|".join(map(str, np.flatnonzero(flags)))

    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        names = [f"prob_{index}" for index in range(number)]
        writer.writerow(["path", "label", "index", "score", *names, "error", "target"])
        for row, (own, probabilities) in enumerate(zip(truth, scores, strict=True)):
            best = str(probabilities.argmax())
            chosen = joined(probabilities >= 0.5) if several else best
            target = joined(own) if several else str(targets[row])
            cells = [f"{value:.8g}" for value in probabilities]
            writer.writerow([f"{row}.jpg", "", chosen, "", *cells, "", target])


def seconds(work: str, folder: Path, kind: str) -> Callable[[], float]:
    """What the work says of itself."""
    task = "multilabel" if kind == "several" else "multiclass"
    words = [str(folder / f"{kind}.csv"), task, str(folder / kind)]

    def once() -> float:
        command = [sys.executable, "-c", work, *words]
        ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return float(ended.stdout)

    return once


def comparisons(given: argparse.Namespace) -> Iterator[Comparison]:
    """One for all numbers of classes."""
    number = 300 if given.smallest else given.number
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            write_table(folder / f"{kind}.csv", kind, number)
        cases = [Case(f"{kind} classes", seconds(WORK, folder, kind), ours=True) for kind in KINDS]
        cases.append(Case(PEER, seconds(BY_HAND, folder, "10")))
        title = f"{number} images"
        yield Comparison("report", title, tuple(cases), (PEER,), rounds=3, warm=False)


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--number", type=int, default=10_000, help="of images")


if __name__ == "__main__":
    run(__doc__ or "", comparisons, options)
