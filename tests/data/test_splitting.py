from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from classifier.data.splitting import stratified_split

classes = st.lists(st.integers(0, 4), min_size=1, max_size=80)
fractions = st.floats(0.05, 0.9)


def names_of(targets: list[int]) -> list[str]:
    return [f"{target}/{index}.png" for index, target in enumerate(targets)]


@given(classes, fractions, st.integers(0, 99))
def test_split_is_a_stratified_partition(targets: list[int], fraction: float, seed: int) -> None:
    kept, held = stratified_split(names_of(targets), targets, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(targets)))
    for target, number in Counter(targets).items():
        share = sum(targets[index] == target for index in held)
        if number == 1:
            assert share == 0
        else:
            assert 1 <= share <= number - 1
            assert abs(share - number * fraction) <= 1


@given(classes, fractions, st.integers(0, 99), st.randoms())
def test_split_does_not_depend_on_the_order(
    targets: list[int], fraction: float, seed: int, shuffler: object
) -> None:
    names = names_of(targets)
    _, held = stratified_split(names, targets, fraction, seed)
    pairs = list(zip(names, targets, strict=True))
    shuffler.shuffle(pairs)  # type: ignore[attr-defined]
    _, again = stratified_split([n for n, _ in pairs], [t for _, t in pairs], fraction, seed)
    assert {names[index] for index in held} == {pairs[index][0] for index in again}


def test_files_added_to_another_class_change_nothing() -> None:
    targets = [0] * 10 + [1] * 10
    names = names_of(targets)
    _, held = stratified_split(names, targets, 0.3, 1)
    _, more = stratified_split([*names, "1/new.png"], [*targets, 1], 0.3, 1)
    assert {n for n in held if n < 10} == {n for n in more if n < 10}


def test_another_seed_is_another_split() -> None:
    targets = [0] * 50
    assert stratified_split(names_of(targets), targets, 0.3, 1) != stratified_split(
        names_of(targets), targets, 0.3, 2
    )
