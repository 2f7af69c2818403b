"""The loop of a sweep: start trials, follow them, prune, end what must end, judge what ended."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from classifier.runs import CHECKPOINTS, LAST
from classifier.tuning.devices import showing
from classifier.tuning.following import MetricsFile, Outcome, read_outcome, tail
from classifier.tuning.launching import Child, Launcher, ask_to_end, kill
from classifier.tuning.progress import Progress
from classifier.tuning.settings import Settings
from classifier.tuning.storage import BEAT_SECONDS
from classifier.tuning.study import Claim, SweepStudy

log = logging.getLogger(__name__)

# A trial that is told to end has so long to write its checkpoint.
GRACE_SECONDS = float(os.environ.get("SWEEP_GRACE_SECONDS", "20"))
_POLL_SECONDS = 0.02
_READ_SECONDS = 0.2
_ASK_AGAIN_SECONDS = 5.0
_WAIT_SECONDS = 0.5
_FIRST_FAILURES = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A scheduler that stops a job tells all of its processes; 255: the server of the forks has died.
_ENDED_BY_OTHERS = (-signal.SIGTERM, 143, -signal.SIGINT, 130, 255)


@dataclass
class _Running:
    """A trial on its way.

    Args:
        claim: The trial.
        folder: Its run folder.
        child: Its process.
        device: The GPU that it was given.
        metrics: Where its values appear.
        started: Seconds on the driver's clock.
        ending: Why it was told to end; None while it may go on.
        kill_at: When it is killed for not having ended.
    """

    claim: Claim
    folder: Path
    child: Child
    device: int | None
    metrics: MetricsFile
    started: float
    ending: str | None = None
    kill_at: float = float("inf")
    read_at: float = 0.0

    @property
    def number(self) -> int:
        return self.claim.trial.number


@dataclass
class Ending:
    """How the loop ended.

    Args:
        signum: The signal that ended it.
        failure: Why it gave up.
        reasons: Of the trials that failed, in order.
    """

    signum: int | None = None
    failure: str | None = None
    reasons: list[str] = field(default_factory=list)


@contextmanager
def obeying(note: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM are noted; in a thread they are the main one's.

    Args:
        note: The handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Driver:
    """Runs the trials of a study.

    Args:
        settings: The section `optuna`.
        study: Opened.
        launcher: Starts a trial's process.
        folder: Where the trials' folders are made.
        write_config: Writes the configuration file of a trial, given its path and values.
        max_epochs: Of a training; a checkpoint of that many epochs is not gone on with.
        devices: GPUs of the pool; empty without one.
        progress: Shows what goes on.
        ending: Takes down how the loop ended.
        until: time.monotonic() after which no further trial starts.
    """

    def __init__(
        self,
        settings: Settings,
        study: SweepStudy,
        launcher: Launcher,
        folder: Path,
        write_config: Callable[[Path, Mapping[str, Any]], None],
        max_epochs: int | None,
        devices: tuple[int, ...],
        progress: Progress,
        ending: Ending,
        until: float = float("inf"),
    ) -> None:
        self.settings = settings
        self.study = study
        self.launcher = launcher
        self.folder = folder
        self.write_config = write_config
        self.max_epochs = max_epochs
        self.num_jobs = progress.num_jobs
        self.progress = progress
        self.ending = ending
        self._free = list(devices)
        self._running: list[_Running] = []
        self._finished: list[bool] = []  # of this start: whether each trial did not fail
        self._ask_at = 0.0
        self._beat_at = 0.0
        self._until = until
        self._grace = GRACE_SECONDS

    # The loop

    def run(self) -> None:
        """Run trials until all are done, or something ends the sweep."""
        with obeying(self._note):
            try:
                while True:
                    self._start_trials()
                    if self._running:
                        self._follow_trials()
                        time.sleep(_POLL_SECONDS)
                    elif self._may_be_needed():
                        time.sleep(_WAIT_SECONDS)
                    else:
                        break
            finally:
                self._kill_all()
                self.progress.close()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.ending.signum is not None and signum == signal.SIGINT:
            self._grace = 0.0
            for running in self._running:
                running.kill_at = 0.0
            return
        self.ending.signum = signum
        name, number = signal.Signals(signum).name, len(self._running)
        if number:
            trials = "the running trial" if number == 1 else f"{number} running trials"
            log.info("%s: ending %s; Ctrl-C again ends at once", name, trials)

    @property
    def given_up(self) -> bool:
        """Whether no further trial shall start."""
        return self.ending.signum is not None or self.ending.failure is not None

    def _may_be_needed(self) -> bool:
        """Whether other drivers run trials, which this one takes over should they stop."""
        over = self.given_up or time.monotonic() >= self._until
        return not over and self.study.is_running_elsewhere()

    # Starting

    def _start_trials(self) -> None:
        now = time.monotonic()
        while (
            len(self._running) < self.num_jobs
            and not self.given_up
            and now < self._until
            and now >= self._ask_at
        ):
            claim = self.study.claim()
            if claim is None:
                # Others may still drop a trial; the database is not to be asked all the time.
                self._ask_at = now + _ASK_AGAIN_SECONDS
            else:
                self._start(claim)

    def _start(self, claim: Claim) -> None:
        trial = claim.trial
        misfits = self.study.misfits(claim)
        if misfits:
            reason = f"queued with values outside of the search space: {', '.join(misfits)}"
            self.study.fail(trial, reason, "")
            self._count(trial.number, reason)
            return
        folder = self.folder / f"{trial.number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        self.write_config(config, claim.params)
        words = ["--config", config.as_posix(), *self._resuming(claim)]
        device = self._free.pop(0) if self._free else None
        child = self.launcher.start(words, folder, self._environment(device))
        metrics = MetricsFile(folder / "metrics.csv", self.settings.objective.metric)
        self._running.append(_Running(claim, folder, child, device, metrics, time.monotonic()))
        self.progress.started(trial.number, dict(claim.params))

    def _resuming(self, claim: Claim) -> list[str]:
        """Words to go on from the last checkpoint of the trial that this one repeats."""
        for number in claim.retry_of:
            folder = self.folder / f"{number:04d}"
            checkpoint = folder / CHECKPOINTS / LAST
            if not checkpoint.is_file():
                continue
            metrics = MetricsFile(folder / "metrics.csv", self.settings.objective.metric)
            metrics.new_values()
            if metrics.epoch is None or metrics.epoch + 1 >= (self.max_epochs or 0):
                continue
            log.info("trial %d goes on from %s", claim.trial.number, checkpoint)
            return ["--ckpt_path", checkpoint.as_posix(), "--only_weights_load", "false"]
        return []

    def _environment(self, device: int | None) -> dict[str, str]:
        environment = showing(device)
        if self.num_jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            # Trials that all want all cores wait for each other.
            environment["OMP_NUM_THREADS"] = str(max(1, _num_cores() // self.num_jobs))
        return environment

    # Following

    def _follow_trials(self) -> None:
        now = time.monotonic()
        if self.study.storage.is_shared and now >= self._beat_at:
            self.study.beat()
            self._beat_at = now + BEAT_SECONDS
        for running in list(self._running):
            code = running.child.poll()
            if code is not None or now >= running.read_at:
                self._read(running)
                running.read_at = now + _READ_SECONDS
            if code is not None:
                self._finish(running, code)
            else:
                self._end_where_due(running, now)

    def _read(self, running: _Running) -> None:
        for epoch, value in running.metrics.new_values():
            if running.ending is not None:
                return
            self.progress.epoch(running.number, epoch, value)
            if self.study.report(running.claim.trial, epoch, value):
                self._end(running, "pruned")

    def _end_where_due(self, running: _Running, now: float) -> None:
        limit = self.settings.trial_timeout_seconds
        if running.ending is None:
            if self.given_up:
                self._end(running, "interrupted")
            elif limit is not None and now - running.started > limit:
                self._end(running, "timeout")
        if now >= running.kill_at:
            kill(running.child)

    def _end(self, running: _Running, why: str) -> None:
        running.ending = why
        running.kill_at = time.monotonic() + self._grace
        ask_to_end(running.child)

    def _finish(self, running: _Running, code: int) -> None:
        """Tell the study how a trial ended."""
        self._running.remove(running)
        if running.device is not None:
            self._free.append(running.device)
        kill(running.child)  # whatever it left behind
        trial = running.claim.trial
        metrics = [objective.metric for objective in self.settings.objectives]
        outcome = read_outcome(running.folder, code, metrics)
        if running.ending == "pruned":
            self.study.prune(trial)
            self._finished.append(True)
            self.progress.pruned(running.number)
        elif running.ending == "timeout":
            limit = self.settings.trial_timeout_seconds
            self._fail(running, f"took longer than trial_timeout_seconds ({limit:g} s)")
        elif running.ending is None and code in _ENDED_BY_OTHERS:
            log.warning("trial %d was ended from outside (%s)", running.number, code)
            self.study.lose(trial)
            self.progress.interrupted(running.number)
        elif running.ending == "interrupted" and outcome.values is None:
            self.study.interrupt(trial)
            self.progress.interrupted(running.number)
        else:
            self._judge(running, outcome)
        self._ask_at = 0.0

    def _judge(self, running: _Running, outcome: Outcome) -> None:
        if outcome.values is None:
            self._fail(running, outcome.reason or "")
            return
        self.study.complete(running.claim.trial, outcome.values, outcome.epochs)
        self._finished.append(True)
        self.progress.completed(running.number, outcome.values)

    def _fail(self, running: _Running, reason: str) -> None:
        self.study.fail(running.claim.trial, reason, tail(running.folder))
        self._count(running.number, reason)

    def _count(self, number: int, reason: str) -> None:
        """Count a failure, and give up when there are too many."""
        self._finished.append(False)
        told = reason in self.ending.reasons
        self.ending.reasons.append(reason)
        self.progress.failed(number, "for the same reason" if told else reason)
        most = self.settings.max_failures
        first = min(_FIRST_FAILURES, self.settings.n_trials)
        if len(self._finished) == first and not any(self._finished):
            self.ending.failure = f"the first {first} trials all failed"
        elif most is not None and self._finished.count(False) >= most:
            self.ending.failure = f"{most} trials failed, which is optuna.max_failures"

    def _kill_all(self) -> None:
        """Leave no process behind, whatever ended the loop."""
        for running in self._running:
            kill(running.child)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
