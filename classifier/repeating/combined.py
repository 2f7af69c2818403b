"""The report on all folds: every training image, judged by the model that has not seen it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.config import read_config
from classifier.errors import ConfigError, RunError
from classifier.evaluation.settings import EvaluationSettings
from classifier.masking import shareable_yaml
from classifier.repeating.summary import RepeatResult, described
from classifier.runs import Run
from classifier.spreadsheets import safe_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier.evaluation.results import Evaluation, Predictions

LABEL_ISSUES = "label_issues.csv"
STAGE = "validation"


def check_positive_class(facts: Mapping[str, Any]) -> None:
    """Refuse a positive class that there is not, which would be found after all trainings.

    Args:
        facts: What the check of the configuration has found out.

    Raises:
        ConfigError: names the class.
    """
    settings = EvaluationSettings(**(facts["config"]["evaluation"] or {}))
    settings.check_positive_class(facts["task"], facts["class_names"])


def report_on_folds(run: Run, table: Path, facts: Mapping[str, Any], *, label_issues: bool) -> None:
    """Write report/, and label_issues.csv where it is asked for, and fill in the result.

    Args:
        run: Of the whole.
        table: predictions.csv of all folds.
        facts: What the check of the configuration has found out.
        label_issues: Whether labels are to be doubted.

    Raises:
        RunError: the report cannot be written; the trainings are complete.
    """
    from classifier.evaluation.metrics import evaluate  # imports torch
    from classifier.evaluation.reading import read_predictions

    result, settings = run.result, facts["config"]["evaluation"]
    assert isinstance(result, RepeatResult)
    try:
        predictions = read_predictions(table, facts["task"], facts["class_names"])
        result.num_errors = len(predictions.failed)
        if label_issues:
            from classifier.repeating.label_issues import write_label_issues

            result.num_label_issues = write_label_issues(predictions, run.folder / LABEL_ISSUES)
            result.label_issues = LABEL_ISSUES
        evaluation = evaluate(
            predictions, STAGE, settings["positive_class"], abstain_below=settings["abstain_below"]
        )
        values = {name: estimate.value for name, estimate in evaluation.estimates.items()}
        result.evaluated[STAGE] = {**values, **evaluation.figures}
        if settings["report"]:
            _write(run, evaluation, facts["config"])
    except (ConfigError, RunError) as error:
        raise RunError(f"the trainings are complete, the report on them is not: {error}") from error


def _write(run: Run, evaluation: Evaluation, config: Mapping[str, Any]) -> None:
    from classifier.evaluation.page import verdict
    from classifier.evaluation.report import FOLDER, write_report

    result = run.result
    assert isinstance(result, RepeatResult)
    facts = {
        "folds": {
            "number": str(result.num_parts),
            "validated on": "every training image, by the fold that has not seen it",
            "seed": str(result.seed),
        },
        "mean +- standard deviation of the folds": dict(described(result)),
    }
    page = write_report(
        run.folder / FOLDER,
        [evaluation],
        _loader(evaluation.predictions, config),
        facts=facts,
        config_text=shareable_yaml(read_config(run.folder / "config.yaml")),
        title=f"{config['custom_folder_name']}, {result.num_parts} folds",
    )
    result.report = page.relative_to(run.folder).as_posix()
    result.verdicts[STAGE] = verdict(evaluation)


def _loader(
    predictions: Predictions, config: Mapping[str, Any]
) -> Callable[[int], NDArray[np.uint8] | None]:
    """Row of the predictions -> its image."""
    import numpy as np

    from classifier.cli import ClassifierCLI
    from classifier.data.datasets import sample_name, scanned
    from classifier.data.decoding import BadImageError
    from classifier.terminal import quiet_known_noise

    with warnings.catch_warnings():
        quiet_known_noise()
        _, data, _ = ClassifierCLI({**config, "ckpt_path": None}).build()
    source = scanned(data.dataset_classes, "train")  # type: ignore[attr-defined]
    positions = {safe_path(sample_name(source, place)): place for place in range(len(source))}

    def load(row: int) -> NDArray[np.uint8] | None:
        place = positions.get(predictions.paths[row])
        if place is None or not hasattr(source, "load"):
            return None
        try:
            return np.asarray(source.load(place))
        except (BadImageError, OSError):
            return None  # it was there when it was predicted: the page says that it is gone

    return load
