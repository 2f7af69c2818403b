"""What --compare is given: runs, sweeps and tables, and what lies in their folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.config import read_config
from classifier.errors import ConfigError, reason_of
from classifier.evaluation.comparison.candidate import Candidate
from classifier.masking import without_secrets
from classifier.runs import RUNS, find_checkpoint, slug

KEY = "--compare"
_WITHOUT_TRUTH = ("predict", "explain", "check", "lr_find", "verify_repro", "compare")
TABLES = ("predictions.csv", "predictions.parquet")
_RESULT, _FIGURES, _CONFIG, _HISTORY = "result.json", "metrics.json", "config.yaml", "metrics.csv"
_STAGES = {"test": "test", "validate": "validation"}  # of a run by its mode


def find_candidates(sources: Sequence[str]) -> list[Candidate]:
    """Find the predictions of everything that is to be compared.

    Args:
        sources: Run folders, sweep folders or tables of predictions.

    Raises:
        ConfigError: less than two, one twice, no such run, or one without predictions.
    """
    if len(sources) < 2:
        raise ConfigError(
            KEY, f"needs at least two runs, and has {len(sources) or 'none'}",
            remedy="Write --compare RUN RUN, each a run folder, a sweep or a table of predictions",
        )  # fmt: skip
    seen: dict[Path, str] = {}
    for source in sources:
        place = Path(source).resolve()
        place = place.parent if place.name in TABLES else place
        if place in seen:
            raise ConfigError(KEY, "the same run stands twice", got=source, remedy="Name it once")
        seen[place] = source
    candidates = [_find(source) for source in sources]
    for candidate, name in zip(candidates, _names(sources), strict=True):
        candidate.name = name + candidate.name
    return candidates


def common_stage(candidates: Sequence[Candidate]) -> str | None:
    """The stage that all have predictions of, test rather than validation; None: nothing tells.

    Raises:
        ConfigError: there is none.
    """
    known = [candidate for candidate in candidates if None not in candidate.tables]
    for stage in _STAGES.values():
        if known and all(stage in candidate.tables for candidate in known):
            return stage
    if not known:
        return None
    told = "; ".join(f"{one.name}: {' and '.join(map(str, one.tables))}" for one in known)
    lacking = next(one for one in known if "test" not in one.tables)
    raise ConfigError(
        KEY, f"the runs have predictions of different images: {told}",
        remedy=f"Write: python main.py --test --ckpt_path {lacking.training or lacking.source}, "
        "and the same command again",
    )  # fmt: skip


def _find(source: str) -> Candidate:
    path = Path(source)
    if path.is_file():
        return _of_table(source, path)
    if not path.is_dir():
        near = sorted(item.name for item in path.parent.glob("*")) if path.parent.is_dir() else []
        raise ConfigError(
            KEY, "no such run", got=source, name=path.name, options=near,
            remedy="Give a run folder, a sweep folder or a table of predictions",
        )  # fmt: skip
    result = _read_json(path / _RESULT)
    alone = _table_in(path)
    if not result and alone is not None:
        return _of_table(source, alone)
    if not result:
        inside = sorted(file.parent.as_posix() for file in path.glob(f"*/{_RESULT}"))
        remedy = f"Give one of the runs in it: {', '.join(inside[-5:])}" if inside else (
            "Give a folder that a training, --test, --val or a sweep has made"
        )  # fmt: skip
        raise ConfigError(KEY, "is no run folder", got=source, remedy=remedy)
    if result.get("mode") == "sweep":
        return _of_sweep(source, path, result)
    if result.get("mode") in _STAGES:
        return _of_evaluation(source, path, result)
    return _of_training(source, path, "")


def _of_table(source: str, file: Path) -> Candidate:
    """A table of predictions, with the run that it lies in."""
    if file.suffix not in (".csv", ".parquet"):
        raise ConfigError(
            KEY, "is no run folder and no table of predictions", got=source,
            remedy="Give the run folder of a checkpoint, not its file",
        )  # fmt: skip
    folder = _home_of(file)
    tables: dict[str | None, Path] = {_stage_of(file): file}
    result = _read_json(folder / _RESULT)
    training = _training_of(result) if result.get("mode") in _STAGES else folder
    return Candidate(source, "", tables, training, folder)


def _of_sweep(source: str, folder: Path, result: dict[str, Any]) -> Candidate:
    """The best trial of a sweep."""
    number = result.get("best_trial")
    front = result.get("pareto_trials")
    if number is None:
        raise ConfigError(
            KEY, "the sweep has no single best trial", got=source,
            remedy="Give one of the Pareto front: " + ", ".join(
                (folder / "trials" / f"{trial:04d}").as_posix() for trial in front
            ) if front else "Give a sweep with a complete trial",
        )  # fmt: skip
    trial = folder / "trials" / f"{number:04d}"
    return _of_training(source, trial, f" (best trial {number})")


def _of_evaluation(source: str, folder: Path, result: dict[str, Any]) -> Candidate:
    """A run of --val or --test."""
    tables = _tables_in(folder)
    training = _training_of(result)
    if not tables:
        raise _without_predictions(source, result.get("checkpoint") or source)
    return Candidate(source, "", tables, training, folder)


def _of_training(source: str, folder: Path, remark: str) -> Candidate:
    """A training: its own predictions, or those of --val and --test with its checkpoint."""
    mode = _read_json(folder / _RESULT).get("mode")
    if mode in _WITHOUT_TRUTH:
        raise ConfigError(
            KEY, f"is a run of --{mode}, which predicts no images whose truth is known", got=source,
            remedy="Give a training, or a run of --test or --val",
        )  # fmt: skip
    tables: dict[str | None, Path] = {}
    # Its own rather than those of an evaluation, which of a fold or a repeat lie in its folder.
    below = [folder / stage for stage in _STAGES.values()]
    for place in [*_evaluations_of(folder), *below, folder]:
        tables |= _tables_in(place)
    if not tables and mode == "repeat":
        raise ConfigError(
            KEY, "is a repetition over seeds, of several trainings", got=source,
            remedy=f"Give some of them, as {folder.as_posix()}/repeats/*",
        )  # fmt: skip
    if not tables:
        raise _without_predictions(source, source)
    return Candidate(source, remark, tables, folder, folder)


def _without_predictions(source: str, checkpoint: str) -> ConfigError:
    return ConfigError(
        KEY, "the run has no predictions", got=source,
        remedy=f"Write: python main.py --test --ckpt_path {checkpoint} (--val for the validation "
        "images), and the same command again",
    )  # fmt: skip


def _tables_in(folder: Path) -> dict[str | None, Path]:
    """Stage -> table of predictions, of a run folder."""
    inner = [folder, *(folder / "report" / stage for stage in _STAGES.values())]
    found = [_table_in(place) for place in inner]
    return {_stage_of(file): file for file in found if file is not None}


def _table_in(folder: Path) -> Path | None:
    """The table of predictions of a folder, of any format."""
    files = (folder / name for name in TABLES)
    return next((file for file in files if file.is_file()), None)


def figures_of(file: Path) -> dict[str, Any]:
    """What report/metrics.json says of a table of predictions; nothing where there is none."""
    inside = file.parent.parent.name == "report"
    return _read_json(file.parent / ("" if inside else "report") / _FIGURES)


def _stage_of(file: Path) -> str | None:
    stage = figures_of(file).get("stage") or _STAGES.get(
        _read_json(file.parent / _RESULT).get("mode", "")
    )
    return str(stage) if stage else None


def _evaluations_of(folder: Path) -> list[Path]:
    """Runs of --val and --test with the checkpoint that a training stands for, oldest first."""
    try:
        checkpoint = find_checkpoint(str(folder)).resolve()
    except ConfigError:
        return []
    name = str(_read_config(folder).get("custom_folder_name") or "")
    found = []
    places = {place.resolve(): place for place in (folder.parent, RUNS / slug(name))}
    for place in places.values():
        for file in place.glob(f"*/{_RESULT}"):
            result = _read_json(file)
            used = result.get("checkpoint")
            if result.get("mode") in _STAGES and used and Path(used).resolve() == checkpoint:
                found.append(file.parent)
    return sorted(found, key=lambda place: place.name)


def _training_of(result: dict[str, Any]) -> Path | None:
    """The run folder of the checkpoint that was evaluated, where it is still there."""
    used = result.get("checkpoint")
    if not used:
        return None
    for folder in Path(used).parents[:2]:
        if (folder / _RESULT).is_file():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return None


def _home_of(file: Path) -> Path:
    """The run folder that a table of predictions lies in."""
    folder = file.parent
    if folder.name in _STAGES.values() and folder.parent.name == "report":
        return folder.parent.parent
    return folder


def describe(candidate: Candidate, stage: str | None) -> None:
    """Read what the folders say of a run, once it is known which predictions count.

    Args:
        candidate: As `find_candidates` gave it; it is filled in.
        stage: As `common_stage` gave it.
    """
    candidate.evaluated = _home_of(candidate.table(stage))
    evaluation, training = candidate.evaluated, candidate.training
    own = _read_config(evaluation)
    candidate.config = {key: own[key] for key in own if key not in ("trainer", "optuna")}
    if training is not None:
        trained = _read_config(training)
        candidate.config |= {"trainer": trained["trainer"]} if "trainer" in trained else {}
        candidate.result = _read_json(training / _RESULT)
        candidate.history = _read_history(training / _HISTORY)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(file), f"not valid JSON: {reason_of(error)}") from error
    return content if isinstance(content, dict) else {}


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / _CONFIG
    return without_secrets(read_config(file)) if file.is_file() else {}


def _read_history(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    remedy = "Repair it, or move it away: a run without it has no learning curves"
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            file.as_posix(), f"is damaged: {reason_of(error)}", remedy=remedy
        ) from error
    for number, row in enumerate(rows, start=2):
        for name, cell in row.items():
            try:
                float(cell or 0)
            except (ValueError, TypeError) as error:  # a list of cells beyond the header
                raise ConfigError(
                    f"{file.as_posix()} row {number}", f"{name} must be a number", got=cell,
                    remedy=remedy,
                ) from error  # fmt: skip
    return rows


def _names(sources: Sequence[str]) -> list[str]:
    """The shortest beginnings of the paths, below what they share, that tell the runs apart."""
    paths = [Path(source).resolve().parts for source in sources]
    paths = [parts[:-1] if parts[-1] in TABLES else parts for parts in paths]
    start = 0
    while all(len(parts) > start + 1 and parts[start] == paths[0][start] for parts in paths):
        start += 1
    return [_shortest(parts[start:], [other[start:] for other in paths]) for parts in paths]


def _shortest(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    depth = 1
    while sum(other[:depth] == parts[:depth] for other in others) > 1:
        depth += 1
    return "/".join(parts[:depth])
