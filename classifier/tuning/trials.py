"""What a study's attributes say of its trials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna.trial import FrozenTrial, TrialState

# A trial that got no further in so many crashes of its driver is given up: it may be their cause.
MOST_CRASHES = 10
DEFAULT, DRIVER, EPOCHS, FIRST = "default", "driver", "epochs", "first"  # attributes of a trial
INTERRUPTED = "interrupted"
LOG_TAIL, OUTSIDE, REASON, RETRY_OF = "log_tail", "outside", "reason", "retry_of"


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its driver and not for a reason of its own."""
    return trial.state is TrialState.FAIL and REASON not in trial.user_attrs


def values_used(trial: FrozenTrial) -> dict[str, Any]:
    """Dotted key -> the value that a trial ran with.

    That is what it drew; for the trial of the configuration's own values also what lies outside of
    the search space and is therefore not among its parameters.
    """
    return {**trial.user_attrs.get(OUTSIDE, {}), **trial.params}


def epochs_of(trial: FrozenTrial) -> int | str:
    """Epochs that were trained; empty where unknown."""
    told = max(trial.intermediate_values) + 1 if trial.intermediate_values else ""
    return trial.user_attrs.get(EPOCHS) or told


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the trials that another one repeats."""
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}


def counted_of(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that make up n_trials: begun, and not superseded by a repetition."""
    repeated = superseded(trials)
    return [
        trial
        for trial in trials
        if trial.state is not TrialState.WAITING and trial.number not in repeated
    ]


def chain(number: int | None, trials: list[FrozenTrial]) -> Iterator[int]:
    """The numbers of a trial and of those that it repeats, newest first; nothing for None."""
    while number is not None:
        yield number
        number = trials[number].user_attrs.get(RETRY_OF)


def crashes(trial: FrozenTrial, trials: list[FrozenTrial]) -> int:
    """How often in a row a trial's driver died without an epoch more than the time before."""
    count = 0
    for number in chain(trial.number, trials):
        this = trials[number]
        before = this.user_attrs.get(RETRY_OF)
        epochs = [len(t.intermediate_values) for t in (this, trials[before or 0])]
        if this.user_attrs.get(INTERRUPTED) or (before is not None and epochs[0] > epochs[1]):
            break
        count += 1
    return count
