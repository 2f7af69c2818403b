"""The run folder: made anew by every run, and what programs read from it."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError
from classifier.files import write_text
from classifier.formats import FILES, RECORD

log = logging.getLogger(__name__)

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
BEST = "best.ckpt"
LAST = "last.ckpt"
SOUP = "soup.ckpt"
ERROR = "error.txt"  # what a trial said when it failed
# How names of exports end, and what is told of one beside its file.
_EXPORTED = tuple(Path(name).suffix for name in FILES.values() if name)
_TIMESTAMP = "%Y-%m-%d_%H-%M-%S"
# Set for the further processes of a distributed run, which share the first one's folder.
RUN_DIR_VARIABLE = "CLASSIFIER_RUN_DIR"
# Set for a trial of a sweep, which runs in a folder that the sweep made.
TRIAL_DIR_VARIABLE = "CLASSIFIER_TRIAL_DIR"
# Set for a trial of a sweep: the folder of all its trials.
STUDY_DIR_VARIABLE = "CLASSIFIER_STUDY_DIR"


@dataclass
class Result:
    """What a run came to: returned by `main`, and the content of result.json.

    Args:
        mode: train, validate, test, predict, explain, export, check, lr_find or verify_repro.
        status: running, completed, interrupted or failed.
        output_dir: The run folder.
        metrics: Final value of every logged metric, by its name.
        monitor: The metric that chose the best checkpoint.
        best_score: Its value there.
        best_metrics: Every metric as it was when the best checkpoint was written.
        best_checkpoint: Relative to the run folder; None where none was written.
        last_checkpoint: Relative to the run folder.
        soup: Of GreedySoup: monitor, best_score (of one checkpoint), score, ingredients,
            num_checkpoints, and checkpoint, which is None when no average was better.
        checkpoint: What was resumed, evaluated or predicted with.
        predictions: Path of the table of predictions relative to the run folder.
        report: Path of the report's page relative to the run folder.
        calibration: What evaluation.calibrate and tune_thresholds came to on the validation images.
        evaluated: Stage -> figures of its report: of the checkpoint that the folder stands for.
        verdicts: Stage -> what these come to, in a sentence.
        export: Of an export file (relative to the run folder), format, precision, opset, bytes,
            num_images, labels_equal, num_undecided and max_difference of its verification.
        num_images: Rows of that table, or images that were checked.
        num_errors: Of these, images that could not be decoded.
        num_undecided: Of these, images that evaluation.abstain_below leaves open.
        num_epochs: Epochs trained in all, those before a resume included.
        num_steps: Optimizer steps in all.
        precision: What the trainer really used.
        seed: Of this run.
        found: Keys that a finder tried values for, with what it found.
        wall_seconds: From the start of the command to its end.
        error: Why the run failed.
    """

    mode: str
    output_dir: str
    status: str = "running"
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: str | None = None
    best_score: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_checkpoint: str | None = None
    last_checkpoint: str | None = None
    soup: dict[str, Any] | None = None
    checkpoint: str | None = None
    predictions: str | None = None
    report: str | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    evaluated: dict[str, dict[str, float]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    num_images: int | None = None
    num_errors: int | None = None
    num_undecided: int | None = None
    num_epochs: int | None = None
    num_steps: int | None = None
    precision: str | None = None
    seed: int | None = None
    found: dict[str, Any] = field(default_factory=dict)
    wall_seconds: float | None = None
    error: str | None = None


class Run:
    """One run folder.

    Args:
        folder: An existing folder.
        mode: train, validate, test, predict, explain, export, check, lr_find or verify_repro.
        started: time.time() at the start of the command.
        writes: Whether this process writes into the folder; of several, one does.
    """

    def __init__(self, folder: Path, mode: str, started: float, *, writes: bool = True) -> None:
        self.folder = folder
        self.started = started
        self.writes = writes
        self.result = Result(mode=mode, output_dir=folder.as_posix())

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.folder / CHECKPOINTS

    def write_config(self, text: str) -> None:
        """Keep the resolved configuration."""
        if self.writes:
            write_text(self.folder / "config.yaml", text)

    def write_environment(self, facts: dict[str, Any]) -> None:
        """Keep what the run was made with."""
        if self.writes:
            write_text(self.folder / "environment.json", json.dumps(facts, indent=2) + "\n")

    def write_result(self) -> None:
        """Keep the result as it stands."""
        self.result.wall_seconds = round(time.time() - self.started, 3)
        if not self.writes:
            return
        content = json.dumps(_finite(asdict(self.result)), indent=2)
        write_text(self.folder / "result.json", content + "\n")


def create_run(experiment: str, mode: str, started: float, *, first: bool = True) -> Run:
    """Make the folder of a run: `runs/<experiment>/<YYYY-MM-DD_HH-MM-SS>/`.

    A second run in the same second takes the next second's name: making a folder is atomic, so no
    two runs ever share one.

    Args:
        experiment: Name of the experiment, may be nested with slashes.
        mode: train, validate, test, predict, explain, export, check, lr_find or verify_repro.
        started: time.time() at the start of the command.
        first: False in the further processes of a distributed run, which make no folder; one that
            was not told of it learns it when the processes have found each other.
    """
    if not first:
        known = os.environ.get(RUN_DIR_VARIABLE) or trial_folder() or RUNS / slug(experiment)
        return Run(Path(known), mode, started, writes=False)
    trial = trial_folder()
    if trial is not None:
        return Run(trial, mode, started)
    parent = RUNS / slug(experiment)
    when = datetime.now()
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / when.strftime(_TIMESTAMP)
        try:
            folder.mkdir()
        except FileExistsError:
            when += timedelta(seconds=1)
        else:
            break
    os.environ[RUN_DIR_VARIABLE] = str(folder.resolve())
    return Run(folder, mode, started)


def trial_folder() -> Path | None:
    """The folder that this process's run was given, when it is a trial of a sweep."""
    given = os.environ.get(TRIAL_DIR_VARIABLE)
    if not given:
        return None
    folder = Path(given)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def study_folder() -> Path | None:
    """The folder of the sweep whose trial this process trains; None outside of one."""
    given = os.environ.get(STUDY_DIR_VARIABLE)
    return Path(given) if given else None


def slug(name: str) -> str:
    """A name as a relative path that stays below its parent: `../x` becomes `x`.

    Args:
        name: What the user wrote; slashes nest.
    """
    parts = [re.sub(r"[^\w.\-+= ]+", "_", part).strip(" .") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "experiment"


def newest_unfinished(experiment: str) -> Path | None:
    """The last checkpoint of the experiment's newest training that did not complete.

    Args:
        experiment: Name of the experiment.
    """
    folders = sorted((RUNS / slug(experiment)).glob("????-??-??_??-??-??"), reverse=True)
    results = {folder: _result(folder) for folder in folders}
    went_on = {
        Path(result["checkpoint"]).parent.parent.resolve()
        for result in results.values()
        if result.get("mode") == "train" and result.get("checkpoint")
    }
    for folder, result in results.items():
        last = folder / CHECKPOINTS / LAST
        unfinished = result.get("status") != "completed" and folder.resolve() not in went_on
        if last.is_file() and unfinished:
            return last
    return None


def find_checkpoint(path: str) -> Path:
    """The checkpoint that `--ckpt_path` means.

    Args:
        path: A checkpoint file, or a run folder, which stands for its best checkpoint, or a soup.

    Raises:
        ConfigError: no such file, a folder without checkpoints, an export, or a remote address.
    """
    if re.match(r"^[a-z][a-z0-9+.-]*://", path, flags=re.IGNORECASE):
        raise ConfigError(
            "ckpt_path", "remote checkpoints are not opened", got=path,
            remedy="Download the file first",
        )  # fmt: skip
    found = Path(path)
    _check_no_export(found)
    if found.is_dir():
        # A soup is only there when it is better than the best single one.
        candidates = [found / CHECKPOINTS / name for name in (SOUP, BEST, LAST)]
        candidates.append(found / BEST)
        candidates.append(found / str(_result(found).get("best_checkpoint")))  # a sweep's best
        existing = [candidate for candidate in candidates if candidate.is_file()]
        front = _result(found).get("pareto_trials")
        if not existing and front:
            raise ConfigError(
                "ckpt_path", "a sweep of several objectives has no single best trial", got=path,
                remedy="Give one of the Pareto front: "
                + ", ".join((found / "trials" / f"{number:04d}").as_posix() for number in front),
            )  # fmt: skip
        parts = [part["output_dir"] for part in _result(found).get("parts", ())]
        if not existing and parts:
            raise ConfigError(
                "ckpt_path", "several trainings have no single best checkpoint", got=path,
                remedy="Give one of them: "
                + ", ".join((found / part).as_posix() for part in parts),
            )  # fmt: skip
        if not existing:
            raise ConfigError(
                "ckpt_path", "the folder holds no checkpoints/best.ckpt or last.ckpt", got=path,
                remedy="Give the folder of a training run, or a .ckpt file",
            )  # fmt: skip
        return existing[0]
    if not found.is_file():
        names = sorted(item.name for item in found.parent.glob("*.ckpt"))
        raise ConfigError(
            "ckpt_path", "no such file or folder", got=path,
            remedy="Give a .ckpt file or a run folder", name=found.name, options=names,
        )  # fmt: skip
    return found


def _check_no_export(path: Path) -> None:
    """Refuse what --export wrote, and name the checkpoint that it was made from."""
    if path.is_dir():
        records = [file for file in (path / RECORD, *path.glob(f"*/{RECORD}")) if file.is_file()]
        is_export = (path / RECORD) in records or _result(path).get("mode") == "export"
    else:
        records = [file for file in (path.parent / RECORD,) if file.is_file()]
        is_named = path.suffix.lower() in _EXPORTED or path.name == RECORD
        is_export = path.is_file() and is_named
    if not is_export:
        return
    checkpoint = _checkpoint_in(records[0]) if records else None
    raise ConfigError(
        "ckpt_path", "is an export, with which one can only predict", got=str(path),
        remedy="A training, an evaluation and another export need the checkpoint that it was made "
        f"from{f': {checkpoint}' if checkpoint else ''}",
    )  # fmt: skip


def _checkpoint_in(record: Path) -> str | None:
    """What an export was made from; None where its record is damaged."""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))["checkpoint"]["path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return told if isinstance(told, str) else None


def _result(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def _finite(value: Any) -> Any:
    """JSON has no nan: it becomes null, so that every reader can parse the file."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
