from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from classifier.data.splitting import (
    balanced_part,
    fold_of,
    hold_out,
    joined_groups,
)

classes = st.lists(st.integers(0, 4), min_size=1, max_size=80)
fractions = st.floats(0.05, 0.9)


def names_of(targets: list[int]) -> list[str]:
    return [f"{target}/{index}.png" for index, target in enumerate(targets)]


def split(
    names: Sequence[str], targets: Sequence[int], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Every image a group of its own, of one class."""
    return hold_out([(target,) for target in targets], names, fraction, seed)


@given(classes, fractions, st.integers(0, 99))
def test_split_is_a_stratified_partition(targets: list[int], fraction: float, seed: int) -> None:
    kept, held = split(names_of(targets), targets, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(targets)))
    for target, number in Counter(targets).items():
        share = sum(targets[index] == target for index in held)
        if number == 1:
            assert share == 0
        else:
            assert 1 <= share <= number - 1
            assert abs(share - number * fraction) <= 1


grouped = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=80)


@given(grouped, fractions, st.integers(0, 99))
def test_no_group_and_no_class_is_torn_or_lost(
    samples: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    classes = [(target,) for target, _ in samples]
    groups = [f"g{group}" for _, group in samples]
    kept, held = hold_out(classes, groups, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(samples)))
    assert not {groups[index] for index in kept} & {groups[index] for index in held}
    # Training keeps every class, whatever is held out.
    assert {classes[index] for index in kept} == set(classes)


def test_groups_come_near_the_fraction() -> None:
    rng = random.Random(0)
    groups = [f"patient {rng.randrange(60)}" for _ in range(600)]
    classes = [(rng.randrange(3),) for _ in range(600)]
    shares = [len(hold_out(classes, groups, 0.2, seed)[1]) / 600 for seed in range(20)]
    assert min(shares) > 0.15
    assert max(shares) < 0.25


def test_class_whose_groups_are_all_mixed_is_held_out_too() -> None:
    # Every image of class 1 is in a group with three of class 0.
    classes = [(0,), (0,), (0,), (1,)] * 6 + [(0,)] * 40
    groups = [f"mixed {i // 4}" for i in range(24)] + [f"alone {i}" for i in range(40)]
    for seed in range(20):
        kept, held = hold_out(classes, groups, 0.1, seed)
        assert {classes[i] for i in held} == {classes[i] for i in kept} == {(0,), (1,)}


def test_one_large_group_beside_a_small_one_leaves_something_on_both_sides() -> None:
    groups = ["large"] * 9 + ["small"]
    kept, held = hold_out([(0,)] * 10, groups, 0.2, 1)
    assert (kept, held) == (list(range(9)), [9])


@given(
    st.lists(st.sets(st.integers(0, 3)).map(lambda s: tuple(sorted(s))), min_size=30, max_size=80),
    st.integers(0, 99),
)
def test_every_label_of_several_is_on_both_sides(labels: list[tuple[int, ...]], seed: int) -> None:
    names = [str(index) for index in range(len(labels))]
    kept, held = hold_out(labels, names, 0.3, seed)
    counts = Counter(name for own in labels for name in own)
    for name in counts:
        assert any(name in labels[index] for index in kept)
    assert abs(len(held) - 0.3 * len(labels)) <= 0.2 * len(labels)


@given(classes, fractions, st.integers(0, 99), st.randoms())
def test_split_does_not_depend_on_the_order(
    targets: list[int], fraction: float, seed: int, shuffler: object
) -> None:
    names = names_of(targets)
    _, held = split(names, targets, fraction, seed)
    pairs = list(zip(names, targets, strict=True))
    shuffler.shuffle(pairs)  # type: ignore[attr-defined]
    _, again = split([n for n, _ in pairs], [t for _, t in pairs], fraction, seed)
    assert {names[index] for index in held} == {pairs[index][0] for index in again}


def test_files_added_to_another_class_change_nothing() -> None:
    targets = [0] * 10 + [1] * 10
    names = names_of(targets)
    _, held = split(names, targets, 0.3, 1)
    _, more = split([*names, "1/new.png"], [*targets, 1], 0.3, 1)
    assert {n for n in held if n < 10} == {n for n in more if n < 10}


def test_another_seed_is_another_split() -> None:
    targets = [0] * 50
    assert split(names_of(targets), targets, 0.3, 1) != split(names_of(targets), targets, 0.3, 2)


def test_copies_and_groups_are_joined_through_each_other() -> None:
    groups = joined_groups(
        ["a", "b", "c", "d", "e"], ["p", None, None, "p", None], [None, b"1", b"1", b"1", None]
    )
    assert groups[0] == groups[1] == groups[2] == groups[3]
    assert groups[4] == "e"


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_cover_everything_once_and_keep_groups(seed: int) -> None:
    rng = random.Random(seed)
    groups = [f"g{rng.randrange(20)}" for _ in range(100)]
    classes = [(rng.randrange(3),) for _ in range(100)]
    seen: list[int] = []
    for fold in range(5):
        kept, held = fold_of(classes, groups, 5, fold, seed)
        assert sorted([*kept, *held]) == list(range(100))
        assert not {groups[index] for index in kept} & {groups[index] for index in held}
        seen += held
    assert sorted(seen) == list(range(100))


@given(classes, st.integers(1, 100), st.integers(0, 9))
def test_part_is_as_even_as_the_classes_allow(targets: list[int], most: int, seed: int) -> None:
    part = balanced_part(names_of(targets), [(target,) for target in targets], most, seed)
    assert len(part) == len(set(part)) == min(most, len(targets))
    counts, all_of = Counter(targets[index] for index in part), Counter(targets)
    full = max(counts.values())
    for target, number in all_of.items():
        assert counts[target] >= min(number, full - 1)


fold_numbers = st.integers(2, 6)


@given(st.lists(st.integers(6, 30), min_size=1, max_size=5), fold_numbers, st.integers(0, 99))
def test_folds_are_a_partition_of_equal_class_counts_when_every_image_is_alone(
    numbers: list[int], folds: int, seed: int
) -> None:
    targets = [target for target, number in enumerate(numbers) for _ in range(number)]
    random.Random(seed).shuffle(targets)
    parts = all_folds([(target,) for target in targets], names_of(targets), folds, seed)
    for target in set(targets):
        counts = [sum(targets[index] == target for index in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    reference = StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets)
    assert parts == [sorted(held) for _, held in reference]


@settings(max_examples=30)
@given(grouped, fold_numbers, st.integers(0, 99))
def test_folds_are_a_partition_of_whole_groups_when_there_are_groups(
    drawn: list[tuple[int, int]], folds: int, seed: int
) -> None:
    # Of every class an image in six groups at least.
    samples = drawn + [(target, 20 + group) for target in range(4) for group in range(6)]
    groups = [f"g{group}" for _, group in samples]
    parts = all_folds([(target,) for target, _ in samples], groups, folds, seed)
    for group in set(groups):
        held = [index for index, own in enumerate(groups) if own == group]
        assert sum(not set(held).isdisjoint(part) for part in parts) == 1


several = st.lists(
    st.tuples(st.sets(st.integers(0, 5), max_size=4), st.integers(0, 40)), min_size=1, max_size=80
)


@given(several, fold_numbers, st.integers(0, 99))
def test_folds_are_a_partition_of_whole_groups_when_an_image_has_several_classes(
    samples: list[tuple[set[int], int]], folds: int, seed: int
) -> None:
    classes = [tuple(sorted(own)) for own, _ in samples]
    groups = [f"g{group}" for _, group in samples]
    if len(set(groups)) < folds:
        with pytest.raises(ValueError, match="groups are fewer than"):
            fold_of(classes, groups, folds, 0, seed)
        return
    parts = all_folds(classes, groups, folds, seed)
    for group in set(groups):
        held = [index for index, own in enumerate(groups) if own == group]
        assert sum(not set(held).isdisjoint(part) for part in parts) == 1


def test_folds_have_their_share_of_every_class_when_no_two_images_have_the_same_classes() -> None:
    # As many combinations as images: strata of combinations would all have one member.
    rng = random.Random(3)
    drawn = {tuple(sorted(rng.sample(range(12), rng.randint(1, 4)))) for _ in range(300)}
    classes = sorted(drawn)
    parts = all_folds(classes, [str(index) for index in range(len(classes))], 5, 0)
    totals = Counter(name for own in classes for name in own)
    for part in parts:
        counts = Counter(name for index in part for name in classes[index])
        assert all(abs(counts[name] - number / 5) < 2 for name, number in totals.items())
        assert abs(len(part) - len(classes) / 5) < 4


def all_folds(
    classes: Sequence[tuple[int, ...]], groups: Sequence[str], folds: int, seed: int
) -> list[list[int]]:
    """The parts held out by every fold, which are a partition."""
    parts = []
    for fold in range(folds):
        kept, held = fold_of(classes, groups, folds, fold, seed)
        assert sorted([*kept, *held]) == list(range(len(classes)))
        parts.append(held)
    assert sorted(index for part in parts for index in part) == list(range(len(classes)))
    return parts
