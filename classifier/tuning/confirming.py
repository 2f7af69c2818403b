"""Is the best trial better than the default? Both are repeated over seeds that no trial has seen.

The best of many noisy runs is the luckiest one too: its value in the study says too much. Repeated
over fresh seeds it does not, and the differences of pairs with the same seed tell chance from gain.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from classifier.tuning.settings import Objective, Settings
from classifier.tuning.space import Parameter, SearchSpace
from classifier.tuning.trials import DEFAULT

CANDIDATE, SEED = "trial", "seed_everything"
_LEVEL = 0.05  # of wrong "better" verdicts, over all candidates together


@dataclass(frozen=True)
class Repeats:
    """What is repeated, as a study of its own.

    Args:
        settings: Of that study: one trial for each pair of candidate and seed.
        candidates: Numbers of trials; the default's first.
        pairs: Values of the study's trials.
    """

    settings: Settings
    candidates: tuple[int, ...]
    pairs: tuple[Mapping[str, Any], ...]


def plan(settings: Settings, trials: Sequence[FrozenTrial], seed: int) -> Repeats | None:
    """Choose the default and the best trials of a sweep, and seeds that it did not use.

    Returns:
        None when the default has no value, or no other trial has.
    """
    confirm = settings.confirm
    assert confirm is not None
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    sign = settings.objective.sign
    ranked = sorted(complete, key=lambda trial: -sign * float(trial.values[0]))
    defaults = [t.number for t in ranked if t.user_attrs.get(DEFAULT)]
    others = [t.number for t in ranked if not t.user_attrs.get(DEFAULT)][: confirm.top_k]
    if not defaults or not others:
        return None
    candidates = (defaults[0], *others)
    used = {seed, *(trial.params.get(SEED) for trial in trials)}
    fresh = (number for number in count(seed + 1) if number not in used)
    seeds = list(islice(fresh, confirm.seeds))
    space = SearchSpace(
        [
            Parameter(CANDIDATE, CategoricalDistribution(candidates)),
            Parameter(SEED, CategoricalDistribution(seeds)),
        ]
    )
    pairs = tuple({CANDIDATE: c, SEED: s} for s in seeds for c in candidates)
    digest = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:8]
    own = replace(
        settings,
        n_trials=len(pairs),
        space=space,
        study_name=f"{settings.study_name}-confirm-{digest}",
        pruner={"class_path": "NopPruner"},
        sampler={"class_path": "RandomSampler"},
    )
    return Repeats(own, candidates, pairs)


def values_by_seed(repeats: Repeats, trials: Sequence[FrozenTrial]) -> dict[int, dict[int, float]]:
    """Candidate -> seed -> value."""
    found: dict[int, dict[int, float]] = {number: {} for number in repeats.candidates}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            found[trial.params[CANDIDATE]][trial.params[SEED]] = float(trial.values[0])
    return found


def judge(objective: Objective, values: Mapping[int, Mapping[int, float]]) -> tuple[int, list[str]]:
    """Compare every candidate with the default, pair by pair of equal seeds.

    A one-sided paired t-test for each candidate, with Holm's correction for their number.

    Args:
        objective: What was optimised.
        values: Candidate -> seed -> value; the default is the first candidate.

    Returns:
        The candidate with the best mean among those that beat the default, the default where
        none does; and what to say, the conclusion first.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    default, *others = values
    gains = {
        number: [
            objective.sign * (value - values[default][seed])
            for seed, value in values[number].items()
            if seed in values[default]
        ]
        for number in others
    }
    chances = {number: _chance(gain) for number, gain in gains.items()}
    better: list[int] = []
    for rank, number in enumerate(sorted(chances, key=lambda n: chances[n])):
        if chances[number] > _LEVEL / (len(others) - rank):
            break
        better.append(number)
    lines = [_described(objective.metric, values, default, "the default")]
    lines += [_described(objective.metric, values, n, f"trial {n}") for n in others]
    if not better:
        return default, ["No evidence of an improvement over the default.", *lines]
    best = max(better, key=lambda number: statistics.mean(gains[number]))
    mean, spread = statistics.mean(gains[best]), statistics.stdev(gains[best])
    said = (
        f"Trial {best} is better than the default by {mean:.4g} +- {spread:.2g} "
        f"({objective.metric}, mean and standard deviation over {len(gains[best])} seeds, "
        f"paired t-test: p = {chances[best]:.2g})."
    )
    return best, [said, *lines]


def _chance(gains: Sequence[float]) -> float:
    """How often pure chance gives such a gain; 1 where that cannot be said."""
    if len(gains) < 2 or statistics.mean(gains) <= 0:
        return 1.0
    if statistics.stdev(gains) == 0:
        return 0.0 if len(gains) > 2 else 1.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(gains, 0.0, alternative="greater").pvalue)


def _described(
    metric: str, values: Mapping[int, Mapping[int, float]], number: int, name: str
) -> str:
    found = list(values[number].values())
    if not found:
        return f"{name}: every repetition failed"
    spread = f" +- {statistics.stdev(found):.2g}" if len(found) > 1 else ""
    return f"{name}: {metric} {statistics.mean(found):.4g}{spread} over {len(found)} seeds"
