"""The study: who runs which trial, exactly n_trials times, whatever dies on the way."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Trial
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.samplers import BruteForceSampler, GridSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from classifier.errors import ConfigError, RunError
from classifier.tuning.plugins import build_pruner, build_sampler, seed_for
from classifier.tuning.settings import Settings
from classifier.tuning.storage import Storage
from classifier.tuning.trials import (
    DEFAULT,
    DRIVER,
    EPOCHS,
    FIRST,
    INTERRUPTED,
    LOG_TAIL,
    MOST_CRASHES,
    OUTSIDE,
    REASON,
    RETRY_OF,
    as_stored,
    chain,
    counted_of,
    crashes,
    differences,
    superseded,
    was_interrupted,
)

log = logging.getLogger(__name__)

_SWEEP, _CONFIG, _EXHAUSTED = "sweep", "config", "exhausted"  # user attributes of the study


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
        given_up: Whether the user has asked to end.

    Raises:
        ConfigError: the study has another direction, metric or search space.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        config: Mapping[str, Any],
        first: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.seed = int(config.get("seed_everything") or 0)
        self.first = first
        self.running: set[int] = set()
        storage.running.append(self.running)
        self._queued: set[int] = set()
        self._given_up = given_up
        self.study = storage.patiently(self._open, given_up)
        # Samplers that have tried everything call it, and it works within optimize() only.
        self.study.stop = self._note_exhausted  # type: ignore[method-assign]
        storage.patiently(lambda: self._check_unchanged(config), given_up)

    def _open(self) -> optuna.Study:
        directions = [StudyDirection[o.direction.upper()] for o in self.settings.objectives]
        arguments: dict[str, Any] = {
            "study_name": self.settings.study_name,
            "storage": self.storage.optuna,
            "pruner": build_pruner(self.settings.pruner),
        }
        with self.storage.locked():
            try:
                return optuna.create_study(directions=directions, **arguments)
            except DuplicatedStudyError:
                return optuna.load_study(**arguments)

    def _check_unchanged(self, config: Mapping[str, Any]) -> None:
        config = as_stored(config)
        now: dict[str, Any] = {
            "objectives": [[o.metric, o.direction] for o in self.settings.objectives],
            "search_spaces": as_stored(self.settings.space.described()),
        }
        attributes = self.study.user_attrs
        before = attributes.get(_SWEEP)
        if before is None:
            self._check_directions()
            self.study.set_user_attr(_SWEEP, now)
            self.study.set_user_attr(_CONFIG, dict(config))
            return
        changes = list(differences(before, now, "optuna"))
        if changes:
            raise ConfigError(
                "optuna.study_name", f"the study {self.settings.study_name} was begun with other "
                f"settings: {'; '.join(changes)}",
                remedy="Use a new study_name, or put the settings back",
            )  # fmt: skip
        changes = list(differences(attributes.get(_CONFIG, {}), config, ""))
        if changes:
            log.warning(
                "the configuration has changed since the study began, so its trials may not "
                "compare: %s", "; ".join(changes),
            )  # fmt: skip

    def _check_directions(self) -> None:
        """A study that another program began."""
        wanted = [StudyDirection[o.direction.upper()] for o in self.settings.objectives]
        if self.study.directions != wanted:
            names = ", ".join(direction.name.lower() for direction in self.study.directions)
            raise ConfigError(
                "optuna.direction", f"the study {self.settings.study_name} has: {names}",
                got=", ".join(o.direction for o in self.settings.objectives),
                remedy="Use a new study_name",
            )  # fmt: skip

    def _note_exhausted(self) -> None:
        self.study.set_user_attr(_EXHAUSTED, True)

    # Claiming

    def claim(self) -> Claim | None:
        """The next trial for this driver; None when all n_trials are done or being done."""
        asked = self.storage.patiently(self._ask, self._given_up)
        if asked is None:
            return None
        trial, retry_of = asked
        try:
            params = self.storage.patiently(lambda: self._draw(trial), self._given_up)
        except ValueError as error:
            self.fail(trial, f"the sampler cannot draw: {error}", "")
            raise RunError(f"optuna.sampler: it cannot draw from this space: {error}") from error
        return Claim(trial, params, retry_of)

    def _ask(self) -> tuple[Trial, tuple[int, ...]] | None:
        with self.storage.locked():
            trials = self._mend()
            if self._queue_first(trials):
                trials = self._trials()
            if len(list(counted_of(trials))) >= self.settings.n_trials:
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
            if self.storage.is_shared:
                trial.set_user_attr(DRIVER, self.storage.driver)
                self.storage.beat([trial._trial_id])
            self.running.add(trial.number)
            if waiting:
                self._queued.add(trial.number)
        return trial, tuple(chain(trial.user_attrs, trials))

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
        self.storage.beat([t._trial_id for t in trials if t.number in self.running])
        for trial in trials:
            foreign = trial.state is TrialState.RUNNING and trial.number not in self.running
            if foreign and self.storage.is_dead(trial.user_attrs.get(DRIVER)):
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
        self.storage.patiently(self._mend_locked, self._given_up)

    def _mend_locked(self) -> None:
        with self.storage.locked():
            self._mend()

    # Telling

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Tell an intermediate value.

        Returns:
            Whether the trial shall be pruned.
        """

        def tell() -> bool:
            if len(self.settings.objectives) > 1:
                return False
            trial.report(value, epoch)
            return trial.should_prune()

        return bool(self._telling(trial, tell, False))

    def complete(self, trial: Trial, values: tuple[float, ...], epochs: int | None = None) -> None:
        """The trial came to its end with finite values, after so many epochs."""

        def tell() -> None:
            trial.set_user_attr(EPOCHS, epochs)
            self.study.tell(trial, list(values))

        self._finish(trial, tell)

    def prune(self, trial: Trial) -> None:
        """The trial was stopped as one of the worse."""
        self._finish(trial, lambda: self.study.tell(trial, state=TrialState.PRUNED))

    def fail(self, trial: Trial, reason: str, log_tail: str) -> None:
        """The trial failed for a reason of its own."""

        def tell() -> None:
            trial.set_user_attr(REASON, reason)
            trial.set_user_attr(LOG_TAIL, log_tail)
            self.study.tell(trial, state=TrialState.FAIL)

        self._finish(trial, tell)

    def lose(self, trial: Trial) -> None:
        """Something else than this driver ended the trial; it will be queued again."""
        self._finish(trial, lambda: self.study.tell(trial, state=TrialState.FAIL))

    def interrupt(self, trial: Trial) -> None:
        """The trial was ended with its driver; it will be queued again."""

        def tell() -> None:
            trial.set_user_attr(INTERRUPTED, True)
            self.study.tell(trial, state=TrialState.FAIL)

        self._finish(trial, tell)

    def _finish(self, trial: Trial, tell: Callable[[], Any]) -> None:
        finite = isinstance(self.study.sampler, GridSampler | BruteForceSampler)
        if trial.number in self._queued and finite:
            # They ask every finished trial for its place in their grid; a queued one has none.
            self.study.sampler = RandomSampler()
        self._telling(trial, tell, None)
        self.running.discard(trial.number)

    def _telling(self, trial: Trial, tell: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return self.storage.patiently(tell, self._given_up)
        except (UpdateFinishedTrialError, ValueError):
            if self.study.get_trials(deepcopy=False)[trial.number].state is TrialState.RUNNING:
                raise
            log.warning("trial %d was ended by another driver meanwhile", trial.number)
            return otherwise

    def beat(self) -> None:
        """Tell other drivers that this one lives."""
        ids = [t._trial_id for t in self.trials() if t.number in self.running]
        self.storage.patiently(lambda: self.storage.beat(ids), self._given_up)

    # Reading

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.storage.patiently(self._trials, self._given_up)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None before the first, and with several objectives."""
        complete = [t for t in self.trials() if t.state is TrialState.COMPLETE]
        if not complete or len(self.settings.objectives) > 1:
            return None
        sign = 1.0 if self.settings.objective.direction == "maximize" else -1.0
        return max(complete, key=lambda trial: sign * float(trial.values[0]))

    def is_running_elsewhere(self) -> bool:
        """Whether other drivers are running trials of this study."""
        return any(
            trial.state is TrialState.RUNNING and trial.number not in self.running
            for trial in self.trials()
        )

    def counted(self) -> list[FrozenTrial]:
        """The trials that make up n_trials: begun, and not superseded by a repetition."""
        return list(counted_of(self.trials()))
