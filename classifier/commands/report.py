"""What a model is worth: its checkpoint evaluated, and the report on that."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.callbacks.metrics import task_of
from classifier.callbacks.table import read_rows
from classifier.commands.job import Job
from classifier.data.decoding import BadImageError
from classifier.evaluation.card.facts import stage_facts
from classifier.evaluation.card.writing import write_card
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.page import verdict
from classifier.evaluation.reading import read_predictions
from classifier.evaluation.report import FOLDER, write_report
from classifier.evaluation.results import Evaluation
from classifier.masking import shareable, shareable_yaml
from classifier.runs import Run
from classifier.spreadsheets import safe_path

log = logging.getLogger(__name__)

# Stage of the figures -> that of the data module.
_DATA = {"validation": "val", "test": "test"}


def can_be_judged(model: Any, data: Any) -> bool:
    """Whether predictions of a model can be named: by class, and by image.

    Args:
        model: Any.
        data: Any.
    """
    return bool(getattr(model, "class_names", None)) and hasattr(data, "stage")


def write_model_card(
    job: Job, data: Any, run: Run, judged: Sequence[Evaluation], checkpoint: Path
) -> None:
    """Describe the model for who has only its folder, or finds it on the Hugging Face Hub."""
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    write_card(
        run.folder,
        checkpoint=checkpoint,
        config=job.cli.plain(),
        evaluations={evaluation.stage: evaluation for evaluation in reversed(judged)},
        stages=stage_facts(data),
        environment=environment,
        fingerprint=environment.get("data", {}).get("train", {}).get("fingerprint"),
    )


def judge(
    job: Job, model: Any, stage: str, table: Path, fitted: Mapping[str, Any] | None = None
) -> Evaluation:
    """What the predictions of a stage are worth, for all that shows it.

    Args:
        job: Whose settings hold.
        model: Whose predictions they are.
        stage: validation or test.
        table: Of the predictions, of any format.
        fitted: What a calibration came to.
    """
    settings = job.cli.evaluation
    predictions = read_predictions(table, task_of(model), model.class_names)
    calibration = getattr(model, "calibration", None)
    if not fitted and calibration is not None and calibration.temperature != 1.0:
        fitted = {"temperature": calibration.temperature}  # of the training, long ago
    thresholds = getattr(model, "thresholds", None)
    if calibration is not None and calibration.positive is not None:
        thresholds = [None, None]
        thresholds[calibration.positive] = calibration.thresholds[0]
    return evaluate(
        predictions, stage, settings.positive_class, fitted, settings.abstain_below, thresholds
    )


def report_on(
    job: Job, data: Any, run: Run, folder: Path, judged: Sequence[Evaluation], checkpoint: Path
) -> None:
    """Write a report, and put what it comes to into the run's result.

    Args:
        job: Whose settings hold.
        data: Whose images were predicted.
        run: The run folder.
        folder: Of the report, in it.
        judged: The one that the report is about, and others whose figures stand beside it.
        checkpoint: That predicted.
    """
    about = judged[0]
    table = run.folder / "metrics.csv"
    page = write_report(
        folder,
        judged,
        _loader(data, about),
        history=read_rows(table) if table.is_file() else [],
        facts=_facts(job, data, run, checkpoint),
        config_text=shareable_yaml(job.cli.plain()),
        title=job.experiment,
    )
    run.result.report = page.relative_to(run.folder).as_posix()
    run.result.verdicts[about.stage] = verdict(about)
    run.result.evaluated[about.stage] = {
        **{name: estimate.value for name, estimate in about.estimates.items()},
        **about.figures,
    }


def report_on_evaluation(job: Job, model: Any, data: Any, run: Run, table: Path) -> None:
    """Write report/ on predictions that were just made by --val or --test.

    Args:
        job: Of the mode validate or test.
        model: Whose predictions they are.
        data: Whose images.
        run: The run folder.
        table: Of the predictions, of any format.
    """
    stage = "validation" if job.mode == "validate" else "test"
    assert job.checkpoint_file is not None
    report_on(
        job, data, run, run.folder / FOLDER, [judge(job, model, stage, table)], job.checkpoint_file
    )


def _loader(data: Any, evaluation: Evaluation) -> Callable[[int], NDArray[np.uint8] | None]:
    """Row of an evaluation -> its image."""
    stage = data.stage(_DATA[evaluation.stage])
    source: Any = getattr(stage, "source", None)

    def place_of(row: int) -> int | None:
        """Rows are in the order of the stage, where none is missing: so it is not far away."""
        path = evaluation.predictions.paths[row]
        places = chain(range(row, len(stage)), range(min(row, len(stage))))
        return next((place for place in places if safe_path(stage.path(place)) == path), None)

    def load(row: int) -> NDArray[np.uint8] | None:
        if not hasattr(source, "load"):
            return None
        place = place_of(row)
        try:
            return None if place is None else np.asarray(source.load(stage.indices[place]))
        except (BadImageError, OSError):
            return None  # it was there when it was predicted: the page says that it is gone

    return load


def _facts(job: Job, data: Any, run: Run, checkpoint: Path) -> dict[str, dict[str, str]]:
    result = run.result
    environment: Mapping[str, Any] = json.loads(
        (run.folder / "environment.json").read_text(encoding="utf-8")
    )
    facts = {
        "checkpoint": str(checkpoint),
        "best": result.best_score and f"{result.monitor} {result.best_score:.4f}",
        "epochs": result.num_epochs,
        "steps": result.num_steps,
        "precision": result.precision,
        "seed": result.seed,
    }
    packages = environment["packages"]
    return {
        "data": {"images": data.summary()}
        if job.mode == "train" and hasattr(data, "summary")
        else {},
        "run": {name: shareable(str(value)) for name, value in facts.items() if value is not None},
        "environment": {
            "Python": environment["python"],
            "platform": environment["platform"],
            **{name: str(packages[name]) for name in ("torch", "lightning", "timm")},
        },
    }
