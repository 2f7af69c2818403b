"""The loop of a sweep: start trials, follow them, prune, end what must end, judge what ended."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.cores import usable_cores
from classifier.runs import CHECKPOINTS, LAST, STUDY_DIR_VARIABLE
from classifier.tuning.devices import showing
from classifier.tuning.ending import Ending
from classifier.tuning.following import MetricsFile, read_outcome, tail
from classifier.tuning.launching import Child, Launcher, ask_to_end, kill, write_config
from classifier.tuning.progress import Progress
from classifier.tuning.storage import BEAT_SECONDS
from classifier.tuning.study import Claim, SweepStudy

log = logging.getLogger(__name__)

# A trial that is told to end has so long to write its checkpoint.
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.02
_READ_SECONDS = 0.2
_ASK_AGAIN_SECONDS = 5.0
_WAIT_SECONDS = 0.5
_FIRST_FAILURES = 3
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
        read_at: When its values are read next.
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


class Driver:
    """Runs the trials of a study.

    Args:
        study: Opened.
        launcher: Starts a trial's process.
        folder: Where the trials' folders are made.
        config_of: Gives the configuration of a trial for its values.
        max_epochs: Of a training; a checkpoint of that many epochs is not gone on with.
        devices: GPUs of the pool; empty without one.
        ending: Tells when to end, and takes down what went wrong.
        until: time.monotonic() after which no further trial starts.
        noun: What a trial is called.
    """

    def __init__(
        self,
        study: SweepStudy,
        launcher: Launcher,
        folder: Path,
        config_of: Callable[[Mapping[str, Any]], dict[str, Any]],
        max_epochs: int | None,
        devices: tuple[int, ...],
        ending: Ending,
        until: float,
        noun: str,
    ) -> None:
        self.study = study
        self.settings = study.settings
        self.launcher = launcher
        self.folder = folder
        self.config_of = config_of
        self.max_epochs = max_epochs
        self.ending = ending
        self.num_jobs = self.settings.n_jobs or len(devices) or 1
        self.progress = Progress(study, max_epochs, self.num_jobs, noun)
        self._free = list(devices)
        self._running: list[_Running] = []
        self._finished: list[bool] = []  # of this start: whether each trial did not fail
        self._ask_at = 0.0
        self._beat_at = 0.0
        self._until = until
        self._announced = False

    # The loop

    def run(self) -> None:
        """Run trials until all are done, or something ends the sweep."""
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
            for running in self._running:  # no process is left behind
                kill(running.child)
            self.progress.close()

    def _may_be_needed(self) -> bool:
        """Whether other drivers run trials, which this one takes over should they stop."""
        over = self.ending.is_due or time.monotonic() >= self._until
        return not over and self.study.is_running_elsewhere()

    # Starting

    def _start_trials(self) -> None:
        now = time.monotonic()
        while (
            len(self._running) < self.num_jobs
            and not self.ending.is_due
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
            self.study.fail(trial, reason)
            self._count(trial.number, reason)
            return
        folder = self.folder / f"{trial.number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        write_config(config, self.config_of(claim.params))
        words = ["--config", config.as_posix(), *self._resuming(claim)]
        device = self._free.pop(0) if self._free else None
        child = self.launcher.start(words, folder, self._environment(device))
        metrics = MetricsFile(folder / "metrics.csv", self.settings.objective.metric)
        self._running.append(_Running(claim, folder, child, device, metrics, time.monotonic()))
        self.progress.started(trial.number, claim.params)

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
        study = self.study.storage.folder.resolve()
        environment = {**showing(device), STUDY_DIR_VARIABLE: str(study)}
        if self.num_jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            # Trials that all want all cores wait for each other.
            environment["OMP_NUM_THREADS"] = str(max(1, usable_cores() // self.num_jobs))
        return environment

    # Following

    def _follow_trials(self) -> None:
        now = time.monotonic()
        if self.ending.signum is not None:
            self._announce_end(self.ending.signum)
        if now >= self._beat_at:
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

    def _announce_end(self, signum: int) -> None:
        if not self._announced:
            self._announced = True
            number = len(self._running)
            trials = "the running trial" if number == 1 else f"{number} running trials"
            name = signal.Signals(signum).name
            log.info("%s: ending %s; Ctrl-C again ends at once", name, trials)

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
            if self.ending.is_due:
                self._end(running, "interrupted")
            elif limit is not None and now - running.started > limit:
                self._end(running, "timeout")
        if self.ending.at_once or now >= running.kill_at:
            kill(running.child)

    def _end(self, running: _Running, why: str) -> None:
        running.ending = why
        running.kill_at = time.monotonic() + _GRACE_SECONDS
        ask_to_end(running.child)

    def _finish(self, running: _Running, code: int) -> None:
        """Tell the study how a trial ended."""
        self._running.remove(running)
        if running.device is not None:
            self._free.append(running.device)
        kill(running.child)  # whatever it left behind
        trial = running.claim.trial
        outcome = read_outcome(running.folder, code, self.settings.metrics)
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
        elif outcome.values is None:
            self._fail(running, outcome.reason)
        else:
            self.study.complete(trial, outcome.values, outcome.epochs)
            self._finished.append(True)
            self.progress.completed(running.number, outcome.values)
        self._ask_at = 0.0

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
