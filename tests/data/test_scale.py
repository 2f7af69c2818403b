"""What is kept for each image is little, and is what objects of their own would say."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from classifier import FolderImageDataset, ImageDataModule, ImageDataset
from classifier.data import near, portions
from classifier.data.augmentations import KeepingResize
from classifier.data.cache import ImageCache
from classifier.data.copies import find_copies
from classifier.data.datasets import PackedSamples, Sample
from classifier.data.portions import in_portions
from classifier.data.sampling import EpochSampler
from classifier.data.splitting import _count, _rank, hold_out, least_tied
from classifier.data.store import Index, Kept
from classifier.preprocessing import Preprocessing

NUMBER = 20_000


def bytes_for_each(work: Callable[[], Any], number: int = NUMBER) -> tuple[float, float]:
    """Of what the work gives, which is kept, and at its highest point."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = work()
        gc.collect()
        now, most = tracemalloc.get_traced_memory()
        assert kept is not None
    finally:
        tracemalloc.stop()
    return now / number, most / number


class Listed(ImageDataset):
    """So many images that nobody looks at."""

    def __init__(self, number: int = NUMBER) -> None:
        super().__init__()
        self.number = number

    def scan(self) -> Sequence[Sample]:
        names = (f"class {index % 300:03d}/{index:08d}.png" for index in range(self.number))
        return PackedSamples(Sample(name, name[:9]) for name in names)

    def load(self, index: int) -> Any:
        raise AssertionError("no image is looked at")


# Samples

labels = st.one_of(st.none(), st.text(max_size=3), st.lists(st.text(max_size=2)).map(tuple))
samples = st.lists(st.builds(Sample, st.text(), labels, st.none() | st.text(max_size=2)))


@given(samples)
def test_packed_samples_are_the_samples_that_were_packed(given_samples: list[Sample]) -> None:
    packed = PackedSamples(given_samples)
    assert list(packed) == given_samples and packed == given_samples
    assert packed[1:-1] == given_samples[1:-1] and packed[::-2] == given_samples[::-2]
    assert packed == pickle.loads(pickle.dumps(packed)) == copy.deepcopy(packed)
    assert packed.labels == list(dict.fromkeys(sample.label for sample in given_samples))
    assert packed.numbered(dict.fromkeys(packed.labels, 7)) == [7] * len(given_samples)
    if given_samples:
        assert packed[-1] == given_samples[-1]
    with pytest.raises(IndexError):
        packed[len(given_samples)]


def test_packed_paths_keep_their_bytes_when_they_are_no_valid_utf_8() -> None:
    paths = ["\udcff.png", "学\ud800"]
    assert [sample.path for sample in PackedSamples(Sample(path, None) for path in paths)] == paths


def test_samples_of_a_list_are_packed_and_others_are_left_as_they_are() -> None:
    class Own(Sample):
        """With a field more."""

        seen = 3

    class Given(Listed):
        found: Any = ()

        def scan(self) -> Any:
            return self.found

    dataset = Given()
    dataset.found = [Sample("a", "x"), Sample("b", None)]
    assert isinstance(dataset.samples, PackedSamples) and dataset.samples == dataset.found
    assert (dataset.class_names, dataset.targets) == (["x"], [0, -1])
    other = Given()
    other.found = [Own("a", ("x", "y")), Own("b", ())]
    assert other.samples is other.found
    assert (other.class_names, other.targets) == (["x", "y"], [(0, 1), ()])
    assert other.is_multilabel and not dataset.is_multilabel


def test_an_image_takes_few_bytes_beside_its_path_when_a_training_is_set_up() -> None:
    def set_up() -> ImageDataModule:
        data = ImageDataModule({"train": Listed()}, num_workers=0, seed=0)
        data.preprocessing = Preprocessing((8, 8), (8, 8))
        data.setup("fit")
        data.stage("train")
        data.stage("val")
        return data

    set_up()  # what it imports is no image's
    kept, most = bytes_for_each(set_up)
    path = len("class 000/00000000.png")
    assert kept < path + 120
    assert most < 1000


def test_files_of_a_folder_take_few_bytes_beside_their_path(tmp_path: Path) -> None:
    for index in range(2000):
        file = tmp_path / f"class {index % 3}" / f"{index:08d}.png"
        file.parent.mkdir(exist_ok=True)
        file.touch()

    def scanned() -> FolderImageDataset:
        dataset = FolderImageDataset(str(tmp_path))
        assert len(dataset) == 2000 and dataset.targets
        return dataset

    scanned()
    kept, _ = bytes_for_each(scanned, 2000)
    assert kept < len("class 0/00000000.png") + 60


# The order of an epoch


@pytest.mark.parametrize("number", [1, 2, 7, 5000, 9000])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_order_of_an_epoch_is_torchs_own(number: int, replicas: int) -> None:
    images: Any = range(number)
    for rank in range(replicas):
        samplers: list[Any] = [
            kind(images, replicas, rank, shuffle=True, seed=3)
            for kind in (EpochSampler, DistributedSampler)
        ]
        for sampler in samplers:
            sampler.set_epoch(2)
        ours, theirs = map(list, samplers)
        assert ours == [(2, index) for index in theirs]
        assert all(type(index) is int for _, index in ours)


def test_order_of_an_epoch_keeps_no_object_for_each_image() -> None:
    images: Any = range(200_000)
    sampler = EpochSampler(images, 1, 0, shuffle=True, seed=3)

    def begun() -> Any:
        order = iter(sampler)
        next(order)
        return order

    assert bytes_for_each(begun, len(images))[1] < 4  # torch's 8 are not seen here


# Splits


def reference(
    classes: Sequence[Any], groups: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """The rule of `hold_out`, written down with an object for everything."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: _count(classes, indices) for group, indices in members.items()}
    remaining = _count(classes, range(len(classes)))
    needed = {n: min(max(round(k * fraction), 1), k - 1) for n, k in remaining.items()}
    held: set[str] = set()
    for group in sorted(members, key=lambda group: _rank(group, seed)):
        own = counts[group]
        useful = sum(min(number, needed[name]) for name, number in own.items())
        if 2 * useful > own.total() and all(remaining[n] > own[n] for n in own):
            held.add(group)
            for name, number in own.items():
                needed[name] = max(0, needed[name] - number)
                remaining[name] -= number
    for name in sorted(remaining):
        if any(name in counts[group] for group in held):
            continue
        able = [
            group
            for group, own in counts.items()
            if name in own and all(remaining[n] > own[n] for n in own)
        ]
        for group in sorted(able, key=lambda g: (counts[g].total(), _rank(g, seed)))[:1]:
            held.add(group)
            remaining.subtract(counts[group])
    out = sorted(index for group in held for index in members[group])
    return [index for index in range(len(classes)) if index not in set(out)], out


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 5), max_size=3), st.integers(0, 30)), max_size=80),
    st.floats(0.05, 0.9),
    st.integers(0, 99),
)
def test_split_is_that_of_the_plain_rule(
    drawn: list[tuple[set[int], int]], fraction: float, seed: int
) -> None:
    classes = [tuple(sorted(names)) for names, _ in drawn]
    groups = [f"group {group}" for _, group in drawn]
    assert hold_out(classes, groups, fraction, seed) == reference(classes, groups, fraction, seed)


def test_split_counts_a_group_as_often_as_a_class_needs_when_there_are_many_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: Counter[str] = Counter()
    from classifier.data import splitting

    plain = splitting._Groups.count

    def noted(self: Any, group: int) -> Any:
        counted["groups"] += 1
        return plain(self, group)

    monkeypatch.setattr(splitting._Groups, "count", noted)
    # Every class has one image, so that none can be held out: all classes look for a group.
    hold_out([(index,) for index in range(500)], [str(index) for index in range(500)], 0.2, 0)
    assert counted["groups"] <= 3 * 500


# Copies


def test_copies_take_few_bytes_an_image_when_every_file_has_another_length(
    tmp_path: Path,
) -> None:
    for index in range(3000):
        (tmp_path / f"{index:05d}.png").write_bytes(b"x" * index)
    dataset = FolderImageDataset(str(tmp_path))
    assert len(dataset) == 3000
    find_copies([dataset], 2)
    kept, most = bytes_for_each(lambda: find_copies([dataset], 2), 3000)
    assert kept < 20 and most < 400


def test_portions_are_in_order_and_no_more_wait_than_one_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portions, "_ITEMS_OF_A_TASK", 3)
    monkeypatch.setattr(portions, "_TASKS", 2)
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with ThreadPoolExecutor(2) as pool:
        found = in_portions(pool, work, range(30))
        assert [next(found) for _ in range(3)] == [0, 1, 4]
        assert len(begun) <= 6
        assert [*found] == [item * item for item in range(3, 30)]


# What is kept on disk


@given(st.lists(st.tuples(st.binary(max_size=2), st.integers(0, 2**40)), max_size=30))
def test_index_is_a_dictionary_of_places(drawn: list[tuple[bytes, int]]) -> None:
    index, plain = Index(), {}
    for key, offset in drawn:
        index[key] = plain[key] = Kept(offset, offset // 2, 3)
    assert dict(index) == plain and len(index) == len(plain)
    assert list(index) == list(plain)
    assert all(key in index for key in plain) and b"no key" not in index
    with pytest.raises(TypeError, match="stays"):
        del index[b""]


def test_place_of_a_kept_image_takes_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 4000
    dataset = Listed(number)
    assert len(dataset) == number
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    monkeypatch.setattr(Listed, "load", lambda self, index: pixels + index % 200)
    resize = KeepingResize(None, Preprocessing((2, 2), (2, 2)), None)
    ImageCache(tmp_path, dataset, resize, 1).fill(range(number))

    def opened() -> ImageCache:
        cache = ImageCache(tmp_path, dataset, resize, 1)
        cache.fill(range(number))
        return cache

    assert (opened().load(301) == 101).all()
    assert bytes_for_each(opened, number)[0] < 40


# Near duplicates


def plain_groups(hashes: Sequence[int], kinds: Sequence[str]) -> list[list[int]]:
    """Every image with the nearest of each kind, found by comparing all with all."""
    ties = []
    for place, value in enumerate(hashes):
        for kind in set(kinds):
            others = [i for i, own in enumerate(kinds) if own == kind and i != place]
            if others:
                nearest = min(others, key=lambda i: ((hashes[i] ^ value).bit_count(), i))
                if (hashes[nearest] ^ value).bit_count() <= near.NEAR_DISTANCE:
                    ties.append((place, nearest))
    least = least_tied(ties)
    groups: dict[int, list[int]] = {}
    for place in range(len(hashes)):
        groups.setdefault(least(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


# Bits to turn, of one of three pictures.
turned = st.tuples(
    st.integers(0, 2), st.sets(st.integers(0, 63), max_size=7), st.sampled_from("abc")
)


@pytest.mark.parametrize("few", [0, 20_000])
@given(drawn=st.lists(turned, max_size=25))
def test_near_duplicates_are_those_of_the_plain_rule(few: int, drawn: list[Any]) -> None:
    pictures = (0, 2**64 - 1, 0x0123456789ABCDEF)
    hashes = [pictures[which] ^ sum(1 << bit for bit in bits) for which, bits, _ in drawn]
    kinds = [kind for *_, kind in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_FEW", few)
        patch.setattr(near, "_CELLS", 7)
        assert near.groups_of(hashes, kinds) == plain_groups(hashes, kinds)


def test_few_of_many_hashes_are_compared_when_they_are_spread() -> None:
    hashes = np.random.default_rng(0).integers(2**64, size=30_000, dtype=np.uint64)
    parts = near._candidates(hashes, np.arange(len(hashes)))
    assert sum(len(rows) * len(columns) for rows, columns in parts) < len(hashes) ** 2 / 500
