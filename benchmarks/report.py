"""The report: seconds from predictions.csv to figures with intervals, pictures and the page.

    python benchmarks/report.py [IMAGES] [ROUNDS]        (default: 10000 3)

Each round is a process of its own for every number of classes, that has torch and torchmetrics
imported, as a training has; matplotlib, pandas and jinja2 count. Medians and the smallest and
largest are printed, and the size of the folder. `several` are 20 labels per image.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
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


def main() -> None:
    """Measure."""
    num_images, rounds = [int(word) for word in sys.argv[1:]] + [10_000, 3][len(sys.argv) - 1 :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            write_table(folder / f"{kind}.csv", kind, num_images)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, found in times.items():
                task = "multilabel" if kind == "several" else "multiclass"
                words = [str(folder / f"{kind}.csv"), task, str(folder / kind)]
                command = [sys.executable, "-c", WORK, *words]
                ended = subprocess.run(
                    command, cwd=ROOT, check=True, capture_output=True, text=True
                )
                found.append(float(ended.stdout))
        print(f"| {num_images} images, classes | seconds (n = {rounds}) | range | folder |")
        print("|---|---|---|---|")
        for kind, found in times.items():
            size = sum(file.stat().st_size for file in (folder / kind).iterdir()) / 1e6
            span = f"{min(found):.2f}-{max(found):.2f}"
            print(f"| {kind} | {statistics.median(found):.2f} | {span} | {size:.1f} MB |")


if __name__ == "__main__":
    main()
