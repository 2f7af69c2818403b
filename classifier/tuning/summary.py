"""What a sweep leaves to its users: trials.csv, best_config.yaml, result.json, report/."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from classifier.files import write_text
from classifier.runs import BEST, CHECKPOINTS, Result
from classifier.spreadsheets import write_csv
from classifier.terminal import show
from classifier.tuning.launching import write_config
from classifier.tuning.settings import Settings
from classifier.tuning.study import SweepStudy
from classifier.tuning.trials import (
    DEFAULT,
    REASON,
    RETRY_OF,
    epochs_of,
    values_used,
    was_interrupted,
)

TRIALS = "trials"


@dataclass
class SweepResult(Result):
    """What a sweep came to: returned by `main`, and the content of the study folder's result.json.

    `metrics`, `best_score` and `best_checkpoint` are those of the best trial; with several
    objectives they are left open.

    Args:
        study_name: Name of the study.
        n_trials: Trials in total that were asked for.
        num_complete: Trials with a value.
        num_pruned: Trials that were stopped early.
        num_failed: Trials that failed for a reason of their own.
        num_interrupted: Interrupted trials that were not repeated yet.
        best_trial: Its number; None with several objectives, and without a complete trial.
        best_params: Dotted key -> the value that the best trial ran with, choices by their name.
        confirmed: Number of a repeated trial -> seed -> value, after `confirm`.
        best_configs: Files, relative to the study folder; one for each Pareto point.
        pareto_trials: Numbers of the trials on the front, with several objectives.
        default_trial: The trial of the configuration's own values, once it is complete.
        default_metrics: Objective -> its value.
        verdict: What can honestly be said of the best trial against the default.
    """

    study_name: str = ""
    n_trials: int = 0
    num_complete: int = 0
    num_pruned: int = 0
    num_failed: int = 0
    num_interrupted: int = 0
    best_trial: int | None = None
    best_params: dict[str, Any] = field(default_factory=dict)
    best_configs: list[str] = field(default_factory=list)
    pareto_trials: list[int] = field(default_factory=list)
    default_trial: int | None = None
    default_metrics: dict[str, float] = field(default_factory=dict)
    confirmed: dict[int, dict[int, float]] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)


def summarise(study: SweepStudy, folder: Path) -> SweepResult:
    """Count the trials and find the best."""
    settings = study.settings
    trials = study.counted()
    states = Counter(trial.state for trial in trials)
    given_up = sum(was_interrupted(trial) for trial in trials)
    to_repeat = sum(
        t.state is TrialState.WAITING and RETRY_OF in t.user_attrs for t in study.trials()
    )
    result = SweepResult(
        "sweep", folder.as_posix(), "completed", seed=study.seed,
        study_name=settings.study_name, n_trials=settings.n_trials,
        num_complete=states[TrialState.COMPLETE], num_pruned=states[TrialState.PRUNED],
        num_failed=states[TrialState.FAIL] - given_up, num_interrupted=given_up + to_repeat,
    )  # fmt: skip
    best = study.best()
    if best is not None:
        take_as_best(result, best, settings)
    if len(settings.objectives) > 1 and result.num_complete:
        result.pareto_trials = sorted(trial.number for trial in study.study.best_trials)
    for trial in trials:
        if trial.user_attrs.get(DEFAULT) and trial.state is TrialState.COMPLETE:
            result.default_trial = trial.number
            result.default_metrics = values_of(trial, settings)
    return result


def take_as_best(result: SweepResult, trial: FrozenTrial, settings: Settings) -> None:
    """Let a result speak of a complete trial as the best."""
    result.best_trial = trial.number
    result.best_params = values_used(trial)
    result.metrics = values_of(trial, settings)
    result.monitor, result.best_score = settings.objective.metric, float(trial.values[0])
    file = Path(TRIALS, f"{trial.number:04d}", CHECKPOINTS, BEST)
    result.best_checkpoint = file.as_posix() if Path(result.output_dir, file).is_file() else None


def values_of(trial: FrozenTrial, settings: Settings) -> dict[str, float]:
    """Objective -> value of a complete trial."""
    return dict(zip(settings.metrics, map(float, trial.values), strict=True))


def columns_of(trial: FrozenTrial, settings: Settings) -> dict[str, Any]:
    """Every objective and searched key -> what a trial has of it; empty text where nothing."""
    values = trial.values or [""] * len(settings.objectives)
    used = values_used(trial)
    return {
        **dict(zip(settings.metrics, values, strict=True)),
        **{key: used.get(key, "") for key in settings.space.parameters},
    }


def write_trials(study: SweepStudy, result: SweepResult) -> None:
    """Write trials.csv: a row for every trial, interrupted ones included, by number."""
    settings = study.settings
    best = {*result.pareto_trials, result.best_trial}
    params = [f"params_{key}" for key in settings.space.parameters]
    header = ["number", "state", *settings.metrics, *params, "is_best", "epochs", "seconds",
              "retry_of", "reason"]  # fmt: skip
    rows = []
    for trial in study.trials():
        duration = trial.duration
        seconds = "" if duration is None else f"{duration.total_seconds():.2f}"
        interrupted = "interrupted" if was_interrupted(trial) else ""
        rows.append(
            [trial.number, trial.state.name, *columns_of(trial, settings).values(),
             trial.number in best, epochs_of(trial), seconds,
             trial.user_attrs.get(RETRY_OF, ""), trial.user_attrs.get(REASON, interrupted)]
        )  # fmt: skip
    write_csv(Path(result.output_dir, "trials.csv"), header, rows)


def write_best_configs(
    study: SweepStudy,
    result: SweepResult,
    config_of: Callable[[FrozenTrial], dict[str, Any]],
) -> None:
    """Write the configuration of the best trial, or of every Pareto point, ready to train.

    The names of the files go into the result; config_of gives the configuration of a trial.
    """
    folder = Path(result.output_dir)
    files = {number: f"best_config_{number:04d}.yaml" for number in result.pareto_trials}
    if result.best_trial is not None:
        files = {result.best_trial: "best_config.yaml"}
    if files:
        for stale in folder.glob("best_config*.yaml"):
            if stale.name not in files.values():
                stale.unlink()
    trials = study.trials()
    for number, name in files.items():
        values = values_of(trials[number], study.settings).items()
        told = ", ".join(f"{metric} {value:.6g}" for metric, value in values)
        heading = f"Trial {number} of the study {study.settings.study_name}: {told}."
        config = config_of(trials[number])
        # runs/<study>/ is the sweep's: what is trained from here has a folder of its own.
        own = Path(name).stem.replace("_config", "").replace("_", "-")
        config["custom_folder_name"] = f"{config['custom_folder_name']}-{own}"
        write_config(folder / name, config, "\n".join([heading, *result.verdict]))
    result.best_configs = list(files.values())


def write_result(result: SweepResult) -> None:
    """Write result.json."""
    file = Path(result.output_dir, "result.json")
    write_text(file, json.dumps(asdict(result), indent=2) + "\n")


def compared_once(result: SweepResult) -> list[str]:
    """What one run of each says: nothing that could be relied on."""
    if result.best_trial is None:
        return []
    ((metric, best),) = result.metrics.items()
    default = result.default_metrics.get(metric)
    if default is None:
        return [f"{metric}: {best:.6g} in trial {result.best_trial}; the default has no value."]
    if best == default:
        return [f"{metric}: no trial beat the default's {default:.6g}."]
    return [
        f"{metric}: {best:.6g} in trial {result.best_trial}, {default:.6g} for the default, one "
        "run each: the best of many runs looks better than it is. "
        "optuna.confirm repeats both over seeds."
    ]


def print_summary(result: SweepResult) -> None:
    """Print counts, the best trial, the verdict, and what to do with it."""
    counts = {
        "complete": result.num_complete, "pruned": result.num_pruned, "failed": result.num_failed,
    }  # fmt: skip
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    show(f"{sum(counts.values())} of {result.n_trials} trials: {told or 'none'}")
    if result.status == "interrupted":
        show(f"{result.num_interrupted} to be repeated: the same command again goes on")
    for name, value in result.metrics.items():
        show(f"best {name}: {value:.6g} (trial {result.best_trial})")
    for key, value in result.best_params.items():
        show(f"  {key}: {value}")
    if result.pareto_trials:
        show(f"Pareto front: trials {', '.join(map(str, result.pareto_trials))}")
    for line in result.verdict:
        show(line)
    for file in result.best_configs:
        show(f"train it with: python main.py --config {Path(result.output_dir, file).as_posix()}")
