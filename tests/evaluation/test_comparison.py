"""The paired bootstrap: its figures, its level, and that it finds what there is."""

from __future__ import annotations

import dataclasses
from math import comb
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from classifier.errors import ConfigError
from classifier.evaluation.comparison.matching import align
from classifier.evaluation.comparison.paired import Figures, measured, resample
from classifier.evaluation.comparison.verdicts import Comparison, compare, widening
from classifier.evaluation.results import MULTICLASS, MULTILABEL, Predictions

NAMES = ("x", "y", "z")


def made(
    targets: Any, predicted: Any, seed: int = 0, names: tuple[str, ...] = NAMES
) -> Predictions:
    """Predictions with probabilities that go with them."""
    logits = np.random.default_rng(seed).normal(0, 0.5, (len(targets), len(names)))
    logits[np.arange(len(targets)), predicted] += 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    paths = [f"{index:05d}.png" for index in range(len(targets))]
    return Predictions(
        names, MULTICLASS, paths, shares, np.asarray(targets), np.asarray(predicted)
    )  # fmt: skip


def simulated(
    seed: int, accuracies: tuple[float, ...], num_images: int = 200, shared: float = 0.5
) -> dict[str, Predictions]:
    """Models that are right with a given probability, and find half of the images alike hard."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, num_images)
    hardness = rng.random(num_images)
    runs = {}
    for number, accuracy in enumerate(accuracies):
        own = np.where(rng.random(num_images) < shared, hardness, rng.random(num_images))
        wrong = (targets + rng.integers(1, 3, num_images)) % 3
        predicted = np.where(own < accuracy, targets, wrong)
        runs["abcdefgh"[number]] = made(targets, predicted, seed * 100 + number)
    return runs


def several(seed: int, num_images: int, noise: float = 0.2) -> Predictions:
    """Predictions of several labels; the truth does not depend on the noise."""
    truth = np.random.default_rng(0).random((num_images, 3)) < [0.5, 0.3, 0.2]
    rng = np.random.default_rng(seed)
    shares = np.clip(truth * 0.6 + 0.2 + rng.normal(0, noise, truth.shape), 0.01, 0.99)
    paths = [f"{index}.png" for index in range(num_images)]
    return Predictions(NAMES, MULTILABEL, paths, shares, truth, shares >= 0.5)


def expected(run: Predictions, rows: Any) -> list[float]:
    """The figures of some rows, some of them twice, as scikit-learn has them."""
    truth, decided = run.targets[rows], run.predicted[rows]
    shares = run.probabilities[rows]
    present = np.flatnonzero(truth.any(axis=0)) if run.several else np.unique(truth)
    f1_score = sklearn_metrics.f1_score(
        truth, decided, labels=present, average="macro", zero_division=0
    )
    accuracy = sklearn_metrics.accuracy_score(truth, decided)
    if run.several:
        losses = [
            sklearn_metrics.log_loss(truth[:, k], shares[:, k], labels=[0, 1]) for k in range(3)
        ]
        return [f1_score, accuracy, float(np.mean(losses))]
    recall = sklearn_metrics.recall_score(truth, decided, labels=present, average="macro")
    loss = sklearn_metrics.log_loss(truth, shares, labels=[0, 1, 2])
    return [accuracy, f1_score, recall, loss]


RUNS = [
    [*simulated(1, (0.7, 0.9, 0.6), num_images=40).values()],
    [several(seed, 40) for seed in (1, 2, 3)],
]


@pytest.mark.parametrize("runs", RUNS, ids=[MULTICLASS, MULTILABEL])
def test_figures_of_resamples_are_those_of_scikit_learn(runs: list[Predictions]) -> None:
    rng = np.random.default_rng(0)
    figures = Figures(runs)
    # The second resample has one class only; averages are over the classes that are there.
    few = np.flatnonzero(runs[0].targets[:, 0] if runs[0].several else runs[0].targets == 0)
    drawn = [rng.integers(0, 40, 40), rng.choice(few, 40), np.arange(40)]
    weights = np.zeros((40 + figures.num_added, len(drawn)), np.float32)
    for column, rows in enumerate(drawn):
        weights[:40, column] = np.bincount(rows, minlength=40)
    found = figures(weights)
    for column, rows in enumerate(drawn):
        for number, run in enumerate(runs):
            assert found[column, number] == pytest.approx(expected(run, rows), rel=1e-6)
    assert measured(runs) == pytest.approx(found[2])


def test_added_images_are_right_in_one_run_each() -> None:
    runs = RUNS[0]
    figures = Figures(runs)
    assert figures.num_added == 9
    for own in range(3):
        weights = np.zeros((40 + 9, 1), np.float32)
        weights[:40] = 1e-6  # log_loss needs some
        weights[40 + 3 * own : 43 + 3 * own] = 1
        assert figures(weights)[0, :, 0] == pytest.approx(np.eye(3)[own], abs=1e-4)


def plain(run: Predictions, rows: Any) -> list[float]:
    """The figures of some rows, class by class: scikit-learn takes too long for hundreds."""
    truth, decided = run.targets[rows], run.predicted[rows]
    shares = run.probabilities[rows]
    if run.several:
        right = (truth == decided).all(axis=1)
        loss = -np.log(np.where(truth, shares, 1 - shares)).mean()
        columns = [(truth[:, k], decided[:, k]) for k in range(3)]
    else:
        right = truth == decided
        loss = -np.log(shares[np.arange(len(truth)), truth]).mean()
        columns = [(truth == k, decided == k) for k in range(3)]
    columns = [(true, taken) for true, taken in columns if true.any()]
    f1_score = np.mean([2 * (t & d).sum() / (t.sum() + d.sum()) for t, d in columns])
    recall = np.mean([(t & d).sum() / t.sum() for t, d in columns])
    scores = [f1_score, right.mean()] if run.several else [right.mean(), f1_score, recall]
    return [float(value) for value in (*scores, loss)]


PAIRS = [[*simulated(1, (0.7, 0.9), num_images=200).values()], [several(1, 200), several(2, 200)]]


@pytest.mark.parametrize("runs", PAIRS, ids=[MULTICLASS, MULTILABEL])
def test_intervals_are_those_of_a_plain_bootstrap(runs: list[Predictions]) -> None:
    """A loop over resamples; of enough disagreements, where the added images hardly count."""
    first, second = runs
    rows = np.arange(200)
    assert plain(first, rows) == pytest.approx(expected(first, rows))
    rng = np.random.default_rng(5)
    pairs = []
    for _ in range(1000):
        rows = rng.integers(0, 200, 200)
        pairs.append(np.subtract(plain(first, rows), plain(second, rows)))
    spread = np.std(pairs, axis=0)
    resampled = resample(runs, 1000, seed=0)
    found = np.std(resampled[:, 0] - resampled[:, 1], axis=0)
    assert found == pytest.approx(spread, rel=0.12)
    result = compare({"a": first, "b": second})
    for difference, own in zip(result.differences, spread, strict=True):
        low, high = difference.estimate.low, difference.estimate.high
        assert low is not None and high is not None
        assert (high - low) / 2 == pytest.approx(1.96 * own, rel=0.15)
        assert (high + low) / 2 == pytest.approx(difference.estimate.value)


def rates(accuracies: tuple[float, ...], rounds: int = 150, **arguments: Any) -> dict[str, float]:
    """Metric -> share of simulations where any pair was called different."""
    found: dict[str, float] = {}
    for seed in range(rounds):
        result = compare(simulated(seed, accuracies, **arguments), num_resamples=200)
        for metric in result.metrics:
            better = [d.better for d in result.differences if d.metric == metric]
            found[metric] = found.get(metric, 0) + any(better) / rounds
    return found


def test_equal_models_are_called_different_in_one_of_twenty() -> None:
    # 150 rounds: 5 % +- 1.8 %; log_loss is a little above where images are few.
    found = rates((0.85, 0.85))
    assert all(0.01 <= rate <= 0.105 for rate in found.values()), found


def test_level_holds_for_all_pairs_together_when_there_are_four_runs() -> None:
    found = rates((0.85,) * 4, rounds=80)
    assert all(rate <= 0.1 for rate in found.values()), found


def test_real_difference_is_found() -> None:
    found = rates((0.9, 0.75), rounds=40)
    assert found["accuracy"] > 0.9
    result = compare(simulated(0, (0.9, 0.75), num_images=500))
    assert [d.better for d in result.differences] == ["a"] * 4
    values = {d.metric: d.estimate.value for d in result.differences}
    assert values["accuracy"] > 0 > values["log_loss"]


def test_pairing_finds_what_two_samples_would_not() -> None:
    """Two models that fail on nearly the same images: the difference is small and sure."""
    targets = np.arange(400) % 3
    worse = targets.copy()
    worse[:60] = (worse[:60] + 1) % 3
    better = worse.copy()
    better[:12] = targets[:12]
    result = compare({"a": made(targets, worse), "b": made(targets, better)})
    assert result.differences[0].better == "b"
    intervals = [result.estimates[name]["accuracy"] for name in "ab"]
    assert intervals[0].high is not None and intervals[1].low is not None
    assert intervals[0].high > intervals[1].low


# Images that only one of the two has right, near the borders of McNemar's exact test at 5 %.
FEW = [(5, 0), (6, 0), (7, 1), (8, 1), (8, 2), (10, 2), (12, 4), (13, 3), (15, 5), (3, 3)]


@pytest.mark.parametrize(("only_a", "only_b"), FEW)
def test_few_disagreements_are_judged_as_mcnemars_exact_test_does(only_a: int, only_b: int) -> None:
    targets = np.arange(100) % 2
    first, second = targets.copy(), targets.copy()
    second[:only_a] = 1 - second[:only_a]
    first[only_a : only_a + only_b] = 1 - first[only_a : only_a + only_b]
    runs = {
        name: made(targets, predicted, names=("x", "y"))
        for name, predicted in (("a", first), ("b", second))
    }
    total = only_a + only_b
    probability = 2 * sum(comb(total, k) for k in range(only_b + 1)) / 2**total
    found = compare(runs).differences[0].better
    assert found == ("a" if probability < 0.05 else None)


def test_equal_runs_have_no_difference() -> None:
    run = simulated(3, (0.8,))["a"]
    result = compare({"a": run, "b": run})
    for difference in result.differences:
        estimate = difference.estimate
        assert difference.better is None and estimate.value == 0
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low <= 0 <= estimate.high


def test_widening_is_bonferronis() -> None:
    from scipy.stats import norm

    assert widening(1) == pytest.approx(1)
    assert widening(10) == pytest.approx(norm.ppf(1 - 0.05 / 20) / norm.ppf(0.975))


def test_intervals_repeat_and_are_wider_with_more_pairs() -> None:
    runs = simulated(4, (0.8, 0.85, 0.7))
    two = compare({name: runs[name] for name in "ab"})
    again = compare({name: runs[name] for name in "ab"})
    assert two == again
    three = compare(runs)
    assert width(three) > 1.15 * width(two)


def width(comparison: Comparison) -> float:
    estimate = comparison.differences[0].estimate
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


def shuffled(run: Predictions, rows: Any) -> Predictions:
    return Predictions(
        run.class_names, run.task, [run.paths[row] for row in rows], run.probabilities[rows],
        run.targets[rows], run.predicted[rows],
    )  # fmt: skip


def test_images_are_matched_by_path_and_classes_by_name() -> None:
    runs = simulated(5, (0.8, 0.7), num_images=60)
    plain = compare(runs)
    other = shuffled(runs["b"], np.random.default_rng(0).permutation(60))
    other = dataclasses.replace(
        other, class_names=("z", "x", "y"), probabilities=other.probabilities[:, [2, 0, 1]],
        targets=np.array([1, 2, 0])[other.targets], predicted=np.array([1, 2, 0])[other.predicted],
    )  # fmt: skip
    assert compare({"a": runs["a"], "b": other}) == plain


def test_several_labels_are_matched_by_name() -> None:
    first, second = several(1, 50), several(2, 50)
    order = [2, 0, 1]
    turned = dataclasses.replace(
        second, class_names=("z", "x", "y"), probabilities=second.probabilities[:, order],
        targets=second.targets[:, order], predicted=second.predicted[:, order],
    )  # fmt: skip
    found = compare({"a": first, "b": turned})
    assert found.metrics == ("f1_score", "exact_match", "log_loss")
    assert found == compare({"a": first, "b": second})


def test_common_images_are_compared_when_sets_overlap_in_part() -> None:
    runs = simulated(6, (0.8, 0.7), num_images=60)
    first, second = shuffled(runs["a"], range(40)), shuffled(runs["b"], range(10, 60))
    result = compare({"a": first, "b": second})
    assert result.num_images == 30
    whole = compare({name: shuffled(run, range(10, 40)) for name, run in runs.items()})
    assert result == whole


def test_image_that_stands_twice_is_matched_with_its_second_row() -> None:
    runs = simulated(7, (0.8, 0.7), num_images=30)
    doubled = {name: shuffled(run, [*range(30), 0, 1]) for name, run in runs.items()}
    assert len(align(doubled)[1]) == 32


def refusal(first: Predictions, second: Predictions) -> str:
    with pytest.raises(ConfigError) as caught:
        compare({"a": first, "b": second})
    return str(caught.value)


def test_runs_that_cannot_be_compared_are_refused() -> None:
    first, second = simulated(8, (0.8, 0.7), num_images=20).values()
    elsewhere = dataclasses.replace(second, paths=[f"photos/{path}" for path in second.paths])
    assert refusal(first, elsewhere) == (
        "--compare: a and b have no image in common: '00000.png' is one of a, 'photos/00000.png' "
        "one of b. Compare runs that were evaluated on the same images."
    )
    renamed = dataclasses.replace(second, class_names=("x", "y", "w"))
    assert refusal(first, renamed) == (
        "--compare: a and b do not have the same classes: z only in a; w only in b. "
        "Compare runs of the same classes."
    )
    targets = second.targets.copy()
    targets[[3, 5]] = (targets[[3, 5]] + 1) % 3
    was, becomes = (NAMES[index] for index in (first.targets[3], targets[3]))
    assert refusal(first, dataclasses.replace(second, targets=targets)) == (
        "--compare: the truth of 2 of 20 images is not the same in a and b: '00003.png' is "
        f"{was} in a and {becomes} in b. Evaluate both on the same images with the same labels."
    )
    assert refusal(first, several(0, 20)) == (
        "--compare: a is multiclass, b is multilabel. Compare runs of one task."
    )
