"""Several trainings one after another, each in fresh processes and a run folder of its own."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from classifier.measured import as_measured
from classifier.repeating.parts import TRAINING, Part, Step, names_of
from classifier.runs import CHECKPOINTS, LAST
from classifier.tuning.ending import Ending
from classifier.tuning.following import MetricsFile, read_outcome
from classifier.tuning.launching import Child, Launcher, ask_to_end, kill, write_config

log = logging.getLogger(__name__)

_GRACE_SECONDS = 20.0  # a training that is told to end has so long to write its checkpoint
_POLL_SECONDS = 0.02
_READ_SECONDS = 0.5
COMPLETED, FAILED, INTERRUPTED, MISSING = "completed", "failed", "interrupted", "not trained"


@dataclass(frozen=True)
class Trained:
    """How the training of a part ended.

    Args:
        part: Which one.
        status: completed, failed, interrupted or not trained.
        error: Why it failed; empty when it did not.
        metrics: Every metric at the best checkpoint; those of the end where it has none.
        num_epochs: Epochs trained; None where unknown.
        wall_seconds: From the start of its process to its end; None where unknown.
    """

    part: Part
    status: str
    error: str
    metrics: Mapping[str, float]
    num_epochs: int | None = None
    wall_seconds: float | None = None


class Runner:
    """Trains the parts that are not trained yet, and evaluates each as its steps say.

    Args:
        launcher: Starts a process.
        tree: The configuration of all. What it leaves to be measured is as the first training of
            them has it.
        steps: What is done for each part, the training first.
        max_epochs: Of a training; a checkpoint of that many epochs is not gone on with.
        ending: Tells when to end.
    """

    def __init__(
        self,
        launcher: Launcher,
        tree: Mapping[str, Any],
        steps: Sequence[Step],
        max_epochs: int | None,
        ending: Ending,
    ) -> None:
        self.launcher = launcher
        self.tree = tree
        self.steps = steps
        self.max_epochs = max_epochs
        self.ending = ending

    def run(self, parts: Sequence[Part]) -> list[Trained]:
        """Do what is left; a part that fails does not keep the others from being trained."""
        done = [part for part in parts if not self._left(part)]
        if done:
            log.info("%s: trained before", names_of(done))
        trained = []
        for place, part in enumerate(parts, 1):
            if part not in done and not self.ending.is_due:
                log.info("%s (%d of %d): %s", part.name, place, len(parts), part.folder.as_posix())
            for other in parts:  # the first that has measured decides: they are compared
                self.tree = as_measured(self.tree, other.folder)
            trained.append(self._carry_out(part))
            if trained[-1].status == FAILED:
                log.error("%s failed: %s", part.name, trained[-1].error)
        return trained

    def _left(self, part: Part) -> list[Step]:
        """The steps that are to be done; what was done before is kept."""
        return [s for s in self.steps if read_outcome(s.folder(part), 0, ()).values is None]

    def _carry_out(self, part: Part) -> Trained:
        for step in self._left(part):
            if self.ending.is_due:
                return Trained(part, MISSING, "", {})
            code = self._follow(part, step, self._start(part, step))
            outcome = read_outcome(step.folder(part), code, ())
            if outcome.values is None:
                ended = self.ending.signum is not None and code != 1
                status = INTERRUPTED if ended else FAILED
                reason = "ended by a signal" if ended else f"{step.told}{outcome.reason}"
                return Trained(part, status, reason, {})
        result = _result(part.folder)
        metrics = dict(_logged(result))
        for step in self.steps[1:]:
            metrics |= _logged(_result(step.folder(part)))
        return Trained(
            part, COMPLETED, "", metrics, result.get("num_epochs"), result.get("wall_seconds")
        )  # fmt: skip

    def _start(self, part: Part, step: Step) -> Child:
        folder = step.folder(part)
        resuming = self._set_aside(folder) if step.name == TRAINING else []
        folder.mkdir(parents=True, exist_ok=True)
        config = part.folder / "config.yaml"
        if step.name == TRAINING:
            write_config(config, part.config(self.tree))
        given = [
            word.format(config=config.as_posix(), run=part.folder.as_posix()) for word in step.words
        ]
        return self.launcher.start([*given, *resuming], folder, {})

    def _set_aside(self, folder: Path) -> list[str]:
        """Give an unfinished training's folder another name, and the words to go on from it."""
        if not folder.exists():
            return []
        names = (folder.with_name(f"{folder.name}-unfinished-{n}") for n in count(1))
        aside = folder.rename(next(name for name in names if not name.exists()))
        checkpoint = aside / CHECKPOINTS / LAST
        metrics = MetricsFile(aside / "metrics.csv", "")
        metrics.new_values()
        begun = metrics.epoch is not None and metrics.epoch + 1 < (self.max_epochs or 0)
        if not checkpoint.is_file() or not begun:
            return []
        log.info("going on from %s", checkpoint.as_posix())
        return ["--ckpt_path", checkpoint.as_posix(), "--only_weights_load", "false"]

    def _follow(self, part: Part, step: Step, child: Child) -> int:
        """Wait for the end of a step, tell its epochs, and end it where that is due."""
        metrics = MetricsFile(step.folder(part) / "metrics.csv", "validation_loss")
        told = part.name if step.name == TRAINING else f"{part.name}, {step.name}"
        kill_at, read_at = float("inf"), 0.0
        try:
            while (code := child.poll()) is None:
                now = time.monotonic()
                if now >= read_at and step.name == TRAINING:
                    self._tell(part, metrics)
                    read_at = now + _READ_SECONDS
                if self.ending.signum is not None and kill_at == float("inf"):
                    name = signal.Signals(self.ending.signum).name
                    log.info("%s: ending %s; Ctrl-C again ends at once", name, told)
                    ask_to_end(child)
                    kill_at = now + _GRACE_SECONDS
                if self.ending.at_once or now >= kill_at:
                    kill(child)
                time.sleep(_POLL_SECONDS)
        finally:
            kill(child)  # and whatever it left behind
        if step.name == TRAINING:
            self._tell(part, metrics)
        return code

    def _tell(self, part: Part, metrics: MetricsFile) -> None:
        for epoch, value in metrics.new_values():
            most = "" if self.max_epochs is None else f"/{self.max_epochs}"
            log.info("%s: epoch %d%s: %s %.4f", part.name, epoch + 1, most, metrics.metric, value)


def _result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


def _logged(result: Mapping[str, Any]) -> dict[str, float]:
    """Every metric at the best checkpoint, where there is one; numbers that are none left out."""
    logged = {**result.get("metrics", {}), **result.get("best_metrics", {})}
    return {name: float(value) for name, value in logged.items() if value is not None}
