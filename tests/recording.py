"""A logger that tests name by class path: it keeps what every logger is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger


class RecordingLogger(Logger):
    """Keeps values by name and step."""

    rows: list[tuple[int | None, dict[str, float]]]

    def __init__(self) -> None:
        super().__init__()
        self.rows = []
        RecordingLogger.latest = self

    latest: RecordingLogger

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


class WandbLogger(RecordingLogger):
    """Takes pictures as Lightning's logger of this name does."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[str, tuple[Any, int | None]] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.pictures[key] = (images[0], step)


class MLFlowLogger(RecordingLogger):
    """Takes pictures as Lightning's logger of this name does."""

    run_id = "run-7"

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[tuple[str, str], Any] = {}

    @property
    def experiment(self) -> MLFlowLogger:
        return self

    def log_image(self, run_id: str, image: Any, artifact_file: str) -> None:
        self.pictures[run_id, artifact_file] = image


SECRETS = {
    "api_key": "hunter2 correct, horse", "passwd": "hunter2\n\nhunter2", "password": 47114711,
    "url": "postgresql://joe:p@hunter2@host/db",
}  # fmt: skip


class SecretLogger(RecordingLogger):
    """A logger that reports to a service: its arguments are what nobody else may read."""

    def __init__(self, api_key: str, passwd: str, password: int | str, url: str) -> None:
        super().__init__()
