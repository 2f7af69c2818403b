"""What a study's attributes say of its trials, and of what has changed since it was begun."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the trials that another one repeats."""
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}


def counted_of(trials: list[FrozenTrial]) -> Iterator[FrozenTrial]:
    """The trials that make up n_trials."""
    repeated = superseded(trials)
    for trial in trials:
        if trial.state is not TrialState.WAITING and trial.number not in repeated:
            yield trial


def chain(attributes: Mapping[str, Any], trials: list[FrozenTrial]) -> Iterator[int]:
    """The numbers of the trials that one repeats, newest first."""
    number = attributes.get(RETRY_OF)
    while number is not None:
        yield number
        number = trials[number].user_attrs.get(RETRY_OF)


def crashes(trial: FrozenTrial, trials: list[FrozenTrial]) -> int:
    """How often in a row a trial's driver died without an epoch more than the time before."""
    count = 0
    for number in chain({RETRY_OF: trial.number}, trials):
        this = trials[number]
        before = this.user_attrs.get(RETRY_OF)
        epochs = [len(t.intermediate_values) for t in (this, trials[before or 0])]
        if this.user_attrs.get(INTERRUPTED) or (before is not None and epochs[0] > epochs[1]):
            break
        count += 1
    return count


def as_stored(tree: Any) -> Any:
    """A tree as it comes back from the database: text for keys, lists for tuples."""
    return json.loads(json.dumps(tree, default=str))


def differences(before: Any, now: Any, key: str) -> Iterator[str]:
    """What differs between two trees, by dotted key.

    Args:
        before: As it comes back from the database.
        now: As it would come back.
        key: Where both stand.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            here = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name), now.get(name), here)
    elif json.dumps(before) != json.dumps(now):
        yield f"{key} was {before!r} and is {now!r}"
