"""The study: who runs which trial, exactly n_trials times, whatever dies on the way."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from optuna import Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BruteForceSampler, GridSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from classifier.errors import RunError
from classifier.tuning.opening import open_study
from classifier.tuning.samplers import build_sampler, seed_for
from classifier.tuning.settings import Settings
from classifier.tuning.storage import Storage
from classifier.tuning.trials import (
    DEFAULT,
    EPOCHS,
    FIRST,
    INTERRUPTED,
    LOG_TAIL,
    MOST_CRASHES,
    OUTSIDE,
    REASON,
    RETRY_OF,
    chain,
    counted_of,
    crashes,
    superseded,
    was_interrupted,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_EXHAUSTED = "exhausted"  # a user attribute of the study


@dataclass(frozen=True)
class Claim:
    """A trial that this driver shall run.

    Args:
        trial: Of the study, running.
        params: Its stored values by dotted key.
        retry_of: The interrupted trials that this one repeats, newest first.
    """

    trial: Trial
    params: Mapping[str, Any]
    retry_of: tuple[int, ...]


class SweepStudy:
    """A study of Optuna that only this driver, or drivers that keep the same rules, touch.

    A failed trial without a reason was interrupted: by the user, or by the death of its driver. It
    is queued once more, as a new trial that names it, and from then on only the new one counts.

    Args:
        settings: The section `optuna`.
        storage: Opened.
        config: The resolved configuration, which the study's trials vary.
        first: Values, and user attributes, of the trials that the study begins with.

    Raises:
        ConfigError: the study has another direction, metric or search space.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        config: Mapping[str, Any],
        first: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.seed = int(config.get("seed_everything") or 0)
        self.first = first
        self._queued: set[int] = set()
        self.study = storage.patiently(lambda: open_study(settings, storage, config))
        # Samplers that have tried everything call it, and it works within optimize() only.
        self.study.stop = self._note_exhausted  # type: ignore[method-assign]

    def _note_exhausted(self) -> None:
        self.study.set_user_attr(_EXHAUSTED, True)

    # Claiming

    def claim(self) -> Claim | None:
        """The next trial for this driver; None when all n_trials are done or being done."""
        asked = self.storage.patiently(self._ask)
        if asked is None:
            return None
        trial, retry_of = asked
        try:
            params = self.storage.patiently(lambda: self._draw(trial))
        except ValueError as error:
            self.fail(trial, f"the sampler cannot draw: {error}")
            raise RunError(f"optuna.sampler: it cannot draw from this space: {error}") from error
        return Claim(trial, params, retry_of)

    def _ask(self) -> tuple[Trial, tuple[int, ...]] | None:
        with self.storage.locked():
            trials = self._mend()
            if self._queue_first(trials):
                trials = self._trials()
            if len(counted_of(trials)) >= self.settings.n_trials:
                return None
            waiting = [trial.number for trial in trials if trial.state is TrialState.WAITING]
            if not waiting and self.study.user_attrs.get(_EXHAUSTED):
                log.info("the sampler has tried everything that there is to try")
                return None
            # A repetition takes a number, but no draw: a sweep draws alike, interrupted or not.
            number = sum(RETRY_OF not in trial.user_attrs for trial in trials)
            self.study.sampler = build_sampler(
                self.settings.sampler,
                seed_for(self.settings.sampler, self.seed, number),
                conditional=self.settings.space.is_conditional,
            )
            with warnings.catch_warnings():
                # Heart beats are recorded here, and not by the thread of optimize().
                warnings.filterwarnings("ignore", message="Heartbeat of storage")
                trial = self.study.ask()
            self.storage.begin(trial)
            if waiting:
                self._queued.add(trial.number)
        return trial, tuple(chain(trial.user_attrs.get(RETRY_OF), trials))

    def _queue_first(self, trials: list[FrozenTrial]) -> bool:
        queued = {trial.user_attrs.get(FIRST) for trial in trials}
        missing = [index for index in range(len(self.first)) if index not in queued]
        for index in missing:
            params, attributes = self.first[index]
            self.study.enqueue_trial(dict(params), user_attrs={FIRST: index, **attributes})
        return bool(missing)

    def _draw(self, trial: Trial) -> dict[str, Any]:
        fixed = trial.user_attrs.get(FIRST)
        # The configuration's own values may lie outside of the space: those are not drawn.
        only = self.first[fixed][0] if fixed is not None else None
        with warnings.catch_warnings():
            # Values that somebody else queued may lie outside; `misfits` tells of them.
            warnings.simplefilter("ignore")
            return self.settings.space.suggest(trial, only)

    def misfits(self, claim: Claim) -> list[str]:
        """Keys of a trial queued by another program that are unknown or lie outside."""
        frozen = self.trials()[claim.trial.number]
        fixed = frozen.system_attrs.get("fixed_params", {})
        space = self.settings.space.parameters
        unknown = [key for key in fixed if key not in space]
        return unknown + [key for key, value in claim.params.items() if not space[key].holds(value)]

    def _mend(self) -> list[FrozenTrial]:
        """Fail what dead drivers left running, and queue once more what was interrupted."""
        trials = self._trials()
        self.storage.beat()
        for trial in trials:
            if trial.state is TrialState.RUNNING and self.storage.is_lost(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)
        self.storage.fail_stale(self.study)
        trials = self._trials()
        repeated = superseded(trials)
        for trial in trials:
            lost = was_interrupted(trial) and trial.number not in repeated
            if lost and crashes(trial, trials) < MOST_CRASHES:
                self._queue_again(trial)
        return self._trials()

    def _queue_again(self, trial: FrozenTrial) -> None:
        log.info("trial %d was interrupted: it runs again", trial.number)
        kept = {k: v for k, v in trial.user_attrs.items() if k in (DEFAULT, FIRST, OUTSIDE)}
        # It may have died before all of its values were drawn.
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if kept.get(FIRST) is not None:
            params = dict(self.first[kept[FIRST]][0])
        self.study.enqueue_trial(params, user_attrs={RETRY_OF: trial.number, **kept})

    def queue_interrupted(self) -> None:
        """Queue interrupted trials again, for the next start."""

        def mend() -> None:
            with self.storage.locked():
                self._mend()

        self.storage.patiently(mend)

    # Telling

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Tell an intermediate value.

        Returns:
            Whether the trial shall be pruned.
        """
        if len(self.settings.objectives) > 1:
            return False

        def tell() -> bool:
            trial.report(value, epoch)
            return trial.should_prune()

        return bool(self._telling(trial, tell))

    def complete(self, trial: Trial, values: tuple[float, ...], epochs: int | None = None) -> None:
        """The trial came to its end with finite values, after so many epochs."""
        self._finish(trial, TrialState.COMPLETE, {EPOCHS: epochs}, values)

    def prune(self, trial: Trial) -> None:
        """The trial was stopped as one of the worse."""
        self._finish(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str, log_tail: str = "") -> None:
        """The trial failed for a reason of its own."""
        self._finish(trial, TrialState.FAIL, {REASON: reason, LOG_TAIL: log_tail})

    def lose(self, trial: Trial) -> None:
        """Something else than this driver ended the trial; it will be queued again."""
        self._finish(trial, TrialState.FAIL)

    def interrupt(self, trial: Trial) -> None:
        """The trial was ended with its driver; it will be queued again."""
        self._finish(trial, TrialState.FAIL, {INTERRUPTED: True})

    def _finish(
        self,
        trial: Trial,
        state: TrialState,
        attributes: Mapping[str, Any] | None = None,
        values: Sequence[float] | None = None,
    ) -> None:
        finite = isinstance(self.study.sampler, GridSampler | BruteForceSampler)
        if trial.number in self._queued and finite:
            # They ask every finished trial for its place in their grid; a queued one has none.
            self.study.sampler = RandomSampler()

        def tell() -> None:
            for name, value in (attributes or {}).items():
                trial.set_user_attr(name, value)
            self.study.tell(trial, values, state)

        self._telling(trial, tell)
        self.storage.running.discard(trial._trial_id)

    def _telling(self, trial: Trial, tell: Callable[[], T]) -> T | None:
        """Tell the study of a trial; None where another driver has ended it meanwhile."""
        try:
            return self.storage.patiently(tell)
        except (UpdateFinishedTrialError, ValueError):
            if self._trials()[trial.number].state is TrialState.RUNNING:
                raise
            log.warning("trial %d was ended by another driver meanwhile", trial.number)
            return None

    def beat(self) -> None:
        """Tell other drivers that this one lives."""
        self.storage.patiently(self.storage.beat)

    # Reading

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.storage.patiently(self._trials)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None before the first, and with several objectives."""
        complete = [t for t in self.trials() if t.state is TrialState.COMPLETE]
        if not complete or len(self.settings.objectives) > 1:
            return None
        sign = self.settings.objective.sign
        return max(complete, key=lambda trial: sign * float(trial.values[0]))

    def is_running_elsewhere(self) -> bool:
        """Whether other drivers are running trials of this study."""
        return any(
            trial.state is TrialState.RUNNING and trial._trial_id not in self.storage.running
            for trial in self.trials()
        )

    def counted(self) -> list[FrozenTrial]:
        """The trials that make up n_trials."""
        return counted_of(self.trials())

    def is_done(self) -> bool:
        """Whether all of them have ended."""
        ended = sum(trial.state.is_finished() for trial in self.counted())
        return ended >= self.settings.n_trials
