"""Parts of benchmarks/growth.py: what a run writes of its images, classes, steps and trials."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth_probe import STATE, Probe

_FEW_IMAGES = 2000  # where classes are what grows
_EPOCHS = 5


def _probabilities(size: int, num_classes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Of each image its class and what a model says that is right more often than not."""
    rng = np.random.default_rng(0)
    rows = max(1, 1_000_000 // num_classes)
    for start in range(0, size, rows):
        targets = rng.integers(num_classes, size=min(rows, size - start))
        logits = rng.normal(size=(len(targets), num_classes)).astype(np.float32)
        taken_for = np.where(rng.random(len(targets)) < 0.2, targets ^ 1, targets) % num_classes
        logits[np.arange(len(targets)), taken_for] += 1.0 + np.log(num_classes)
        powers = np.exp(logits)
        yield from zip(targets.tolist(), powers / powers.sum(axis=1, keepdims=True), strict=True)


def _predict(size: int, num_classes: int, folder: Path) -> Path:
    from classifier.callbacks.prediction_rows import Row
    from classifier.callbacks.prediction_table import PredictionTable, answer_of
    from classifier.evaluation.settings import EvaluationSettings

    names = [f"class_{index:05d}" for index in range(num_classes)]
    with PredictionTable(folder, EvaluationSettings()) as written:
        written.start(names, several=False, with_truth=True)
        for index, (target, scores) in enumerate(_probabilities(size, num_classes)):
            path = f"{names[target]}/image_{index:08d}.png"
            written.write(Row(path, path, answer_of(scores.tolist(), None), "", [target]))
    return written.file


def _report(file: Path, folder: Path, probe: Probe) -> None:
    from classifier.evaluation.metrics import evaluate
    from classifier.evaluation.reading import read_predictions
    from classifier.evaluation.report import write_report

    with probe.step("read predictions.csv", keeps=True):
        predictions = read_predictions(file, "multiclass")
    with probe.step("figures and intervals", keeps=True):
        evaluation = evaluate(predictions, "test")
    with probe.step("tables, pictures and the page"):
        write_report(folder / "report", [evaluation], lambda row: None, title="growth")
    probe.disk("report/index.html", folder / "report/index.html")
    probe.disk("report/errors.csv", folder / "report/errors.csv")
    probe.disk("report/confusion.csv", folder / "report/confusion.csv")


def _warm_up(folder: Path) -> None:
    """Import what a report imports, and draw once."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    _report(_predict(30, 3, small), small, Probe(traced=False))


def predictions(size: int, folder: Path, probe: Probe) -> None:
    """predictions.csv of ten classes."""
    _predict(10, 10, folder)
    with probe.step("write predictions.csv", keeps=True):
        file = _predict(size, 10, folder)
    probe.disk("predictions.csv", file)


def report(size: int, folder: Path, probe: Probe) -> None:
    """The report on ten classes."""
    _warm_up(folder)
    _report(_predict(size, 10, folder), folder, probe)


def classes(size: int, folder: Path, probe: Probe) -> None:
    """So many classes and 2,000 images."""
    _warm_up(folder)
    with probe.step("write predictions.csv"):
        file = _predict(_FEW_IMAGES, size, folder)
    probe.disk("predictions.csv", file)
    _report(file, folder, probe)
    _metrics(_FEW_IMAGES, size, probe)
    from classifier.data.splitting import hold_out

    images = 20 * size
    targets = [(index % size,) for index in range(images)]
    names = [f"image_{index}" for index in range(images)]
    with probe.step("split of 20 images a class"):
        hold_out(targets, names, 0.1, 0)


def _metrics(size: int, num_classes: int, probe: Probe) -> None:
    """An epoch of MetricsLogger's metrics: the default ones, AUROC, and one of the matrix."""
    import torch

    from classifier.callbacks.metric_specs import DECISIONS, parse_metric
    from classifier.callbacks.metrics import DEFAULT_METRICS

    binned = {"class_path": "AUROC", "init_args": {"thresholds": 100}}
    groups: dict[str, Any] = {
        "metrics: the default ones": DEFAULT_METRICS, "metrics: AUROC": ["AUROC"],
        "metrics: AUROC, thresholds: 100": [binned], "metrics: CohenKappa": ["CohenKappa"],
    }  # fmt: skip
    batch = max(1, min(size, 1_000_000 // num_classes))
    logits = torch.randn(batch, num_classes, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(batch) % num_classes
    for name, specs in groups.items():
        asked = [parse_metric(spec, place) for place, spec in enumerate(specs)]
        built = [(a.build("multiclass", num_classes), a.given("multiclass")) for a in asked]
        with probe.step(name), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for start in range(0, size, batch):
                scores, truth = logits[: size - start].clone(), targets[: size - start].clone()
                for metric, given in built:
                    metric.update(scores.argmax(dim=1) if given == DECISIONS else scores, truth)
            for metric, _ in built:
                metric.compute()
        states = [metric.metric_state.values() for metric, _ in built]
        lists = [one if isinstance(one, list) else [one] for state in states for one in state]
        held = sum(part.nbytes for one in lists for part in one)
        probe.add(name, STATE, held / 1e6)


def metrics(size: int, folder: Path, probe: Probe) -> None:
    """Metrics of ten classes."""
    _metrics(10, 10, Probe(traced=False))
    _metrics(size, 10, probe)


def rows(size: int, folder: Path, probe: Probe) -> None:
    """metrics.csv: a row for each logged step."""
    from classifier.callbacks.table import MetricsTable, read_rows
    from classifier.tuning.following import MetricsFile

    (folder / "metrics.csv").unlink(missing_ok=True)
    written = MetricsTable(folder)
    with probe.step("write metrics.csv", keeps=True):
        for step in range(size):
            written.log_metrics({"epoch": step // 100, "train_loss_step": 1 / (step + 1)}, step)
            if step % 100 == 99:
                written.log_metrics({"epoch": step // 100, "validation_loss": 0.5}, step)
    probe.disk("metrics.csv", written.file)
    with probe.step("follow a trial: read it once"):
        MetricsFile(written.file, "validation_loss").new_values()
    with probe.step("read it for a report", keeps=True):
        history = read_rows(written.file)
    del history
    (folder / "resumed").mkdir(exist_ok=True)
    with probe.step("go on with it in a resume"):
        MetricsTable(folder / "resumed", history=written.file, until_step=size)


def study(size: int, folder: Path, probe: Probe) -> None:
    """A study of so many trials of five epochs in SQLite, random and by TPE."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for sampler in ("RandomSampler", "TPESampler"):
        own = folder / sampler
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        _study(size, own, sampler, probe)


def _study(size: int, folder: Path, sampler: str, probe: Probe) -> None:
    from classifier.tuning.plots import write_plots
    from classifier.tuning.report import write_report
    from classifier.tuning.settings import parse_settings
    from classifier.tuning.storage import Storage
    from classifier.tuning.study import SweepStudy
    from classifier.tuning.summary import summarise, write_trials

    ranges = {f"model.x{index}": {"distribution": "uniform", "low": 0.0, "high": 1.0}
              for index in range(4)}  # fmt: skip
    settings = parse_settings(
        {"tune": True, "n_trials": size, "direction": "maximize", "metric": "validation_f1_score",
         "search_spaces": ranges, "sampler": sampler}, "study",
    )  # fmt: skip
    url = f"sqlite:///{folder / 'study.db'}"

    def opened() -> SweepStudy:
        return SweepStudy(settings, Storage(url, "study", folder), {"seed_everything": 0}, [])

    sweep = opened()
    with probe.step(f"{sampler}: all trials"):
        while (claim := sweep.claim()) is not None:
            sweep.misfits(claim)
            value = sum(claim.params.values()) / 4
            for epoch in range(_EPOCHS):
                sweep.report(claim.trial, epoch, value)
            sweep.complete(claim.trial, (value,), _EPOCHS)
            sweep.counted()
            sweep.best()
    sweep.storage.close()
    if sampler != "RandomSampler":
        return
    probe.disk("study.db", folder / "study.db")
    with probe.step("open the study again"):
        sweep = opened()
        trials = len(sweep.trials())
    assert trials == size
    result = summarise(sweep, folder)
    with probe.step("trials.csv"):
        write_trials(sweep, result)
    with probe.step("the sweep's pictures"):
        plots = write_plots(sweep, folder)
    with probe.step("the sweep's page"):
        page = write_report(sweep, result, folder, plots)
    probe.disk("report/index.html", page)
    sweep.storage.close()
