"""--push_to_hub: a trained model as a repository of the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.checkpoints import CONFIG_KEY, FOLDER_KEY
from classifier.commands.hub import TOKEN, access_token, check_name, commit, open_repository
from classifier.commands.job import Job
from classifier.config import read_config
from classifier.errors import ConfigError
from classifier.evaluation.card.facts import CardFacts
from classifier.evaluation.card.writing import CARD, make_card
from classifier.masking import shareable, shareable_yaml
from classifier.runs import CHECKPOINTS, find_checkpoint
from classifier.terminal import show

log = logging.getLogger(__name__)

_CONFIG, _RESULT, _ENVIRONMENT = "config.yaml", "result.json", "environment.json"
# Of report/ what shows no image and names none, as index.html and errors.csv do.
_REPORT = (
    "metrics.json", "learning_*.png", "confusion.png", "per_class.png", "f1_scores.png", "roc.png",
    "precision_recall.png", "reliability.png", "scores.png", "coverage.png",
)  # fmt: skip
_REPORTS = ("report", "report/validation")

Files = dict[str, Path | bytes]


def push_to_hub(job: Job) -> None:
    """Upload a checkpoint with its card, and of its run what says how good it is.

    Args:
        job: Of the mode push_to_hub; it has a checkpoint.

    Raises:
        ConfigError: the name, the access token or the checkpoint is none, or the Hub refuses.
        RunError: the upload failed.
    """
    name, checkpoint, file = job.command.repository, job.checkpoint, job.checkpoint_file
    assert name is not None and checkpoint is not None and file is not None
    check_name(name)
    token = access_token()
    files = _files(checkpoint, file)
    _check_secret(token, checkpoint, files)
    if job.command.public:
        _tell_paths(checkpoint)
    api = open_repository(name, public=job.command.public, token=token)
    log.info("uploading to %s: %s", name, ", ".join(files))
    title = str(checkpoint[CONFIG_KEY].get("custom_folder_name") or "image classifier")
    address = commit(api, name, files, f"Upload {title}")
    log.info("commit %s", address)
    show(f"{api.endpoint}/{name}")


def _files(checkpoint: Mapping[str, Any], file: Path) -> Files:
    """What is uploaded, by its path in the repository, which is laid out as a run folder is."""
    folder = _run_folder(file)
    if folder is None:
        log.info("%s is not what a run folder stands for: it gets a card of its own", file.name)
        return {CARD: _own_card(checkpoint, file).encode(), file.name: file}
    files: Files = {}
    card = folder / CARD
    files[CARD] = card if card.is_file() else _own_card(checkpoint, file, folder).encode()
    files[_CONFIG] = shareable_yaml(read_config(folder / _CONFIG)).encode()
    if (folder / _RESULT).is_file():
        result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        files[_RESULT] = (json.dumps(shareable(result), indent=2) + "\n").encode()
    files[file.relative_to(folder).as_posix()] = file
    for report in _REPORTS:
        found = [path for name in _REPORT for path in sorted((folder / report).glob(name))]
        files |= {path.relative_to(folder).as_posix(): path for path in found}
    return files


def _run_folder(file: Path) -> Path | None:
    """The folder of a training that stands for this checkpoint; None where there is none."""
    folder = file.parent.parent if file.parent.name == CHECKPOINTS else file.parent
    if not (folder / _CONFIG).is_file():
        return None
    try:
        best = find_checkpoint(str(folder))
    except ConfigError:
        return None  # a folder of something else
    return folder if best.resolve() == file else None


def _own_card(checkpoint: Mapping[str, Any], file: Path, folder: Path | None = None) -> str:
    """A card of what a checkpoint carries.

    Args:
        checkpoint: As it was read.
        file: Where.
        folder: Of the run that it stands for.
    """
    path, environment = file.name, None
    if folder is not None:
        path = file.relative_to(folder).as_posix()
        known = folder / _ENVIRONMENT
        environment = json.loads(known.read_text("utf-8")) if known.is_file() else None
    return make_card(CardFacts(checkpoint, path, checkpoint[CONFIG_KEY], environment=environment))


def _check_secret(token: str, checkpoint: Mapping[str, Any], files: Files) -> None:
    """Refuse to upload the access token itself.

    Raises:
        ConfigError: names where it stands.
    """
    texts = {
        path: content if isinstance(content, bytes) else content.read_bytes()
        for path, content in files.items()
        if not path.endswith(".ckpt")
    }
    texts["the checkpoint"] = repr(checkpoint[CONFIG_KEY]).encode("utf-8", "replace")
    for name, content in texts.items():
        if token.encode() in content:
            raise ConfigError(
                TOKEN, f"the access token itself stands in {name}",
                remedy="Make a new token, and keep it out of configurations",
            )  # fmt: skip


def _tell_paths(checkpoint: Mapping[str, Any]) -> None:
    """Warn of what everybody will read in the checkpoint: it is uploaded as it is."""
    told = [str(checkpoint.get(FOLDER_KEY, "")), checkpoint[CONFIG_KEY]]
    if shareable(told) != told:
        log.warning(
            "everybody will be able to read in the checkpoint where it was trained (%s) and what "
            "its configuration says", checkpoint.get(FOLDER_KEY),
        )  # fmt: skip
