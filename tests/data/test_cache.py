"""The on-disk cache: the same pixels, whatever changes, is killed, or is full."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
from PIL import Image

from classifier import FolderImageDataset, ImageDataModule, RandomResizedCrop, main
from classifier.data import cache as cache_module
from classifier.data import fingerprints, store
from classifier.data.augmentations import KeepingResize
from classifier.data.cache import ImageCache
from classifier.data.decoding import BadImageError, decode_image
from classifier.errors import ConfigError, RunError
from classifier.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((24, 24), (32, 32))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve smooth pictures of 60 x 80 pixels in two classes."""
    root = tmp_path / "photos"
    for index in range(12):
        write_photo(root / ("cat" if index % 2 else "dog") / f"{index:02d}.png", index)
    return root


def write_photo(file: Path, seed: int, size: tuple[int, int] = (80, 60)) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)


def settle(root: Path) -> None:
    """Make files old enough to be known by their stat."""
    for file in root.rglob("*.*"):
        os.utime(file, (1e9, 1e9))


def cached(root: Path, folder: Path, transforms: Any = None) -> ImageCache:
    dataset = FolderImageDataset(str(root))
    return ImageCache(folder, dataset, KeepingResize(transforms, PREPROCESSING, None), 2)


def filled(root: Path, folder: Path, transforms: Any = None) -> ImageCache:
    cache = cached(root, folder, transforms)
    cache.fill(range(len(cache.dataset)))
    return cache


def pixels(cache: ImageCache) -> list[Any]:
    return [cache.load(index) for index in range(len(cache.dataset))]


def resized(cache: ImageCache) -> list[Any]:
    return [cache.resize(cache.dataset.load(i)) for i in range(len(cache.dataset))]


def assert_right(cache: ImageCache) -> None:
    for kept, expected in zip(pixels(cache), resized(cache), strict=True):
        assert np.array_equal(kept, expected)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    seen: list[str] = []

    def noted(file: Path, *rest: Any) -> Any:
        seen.append(file.name)
        return decode_image(file, *rest)

    monkeypatch.setattr("classifier.data.datasets.decode_image", noted)
    return seen


@pytest.mark.parametrize("transforms", [None, [A.HorizontalFlip()]])
def test_kept_pixels_are_those_of_the_files(photos: Path, tmp_path: Path, transforms: Any) -> None:
    cache = filled(photos, tmp_path / "cache", transforms)
    assert_right(cache)
    assert min(cache.load(0).shape[:2]) == 32
    again = pickle.loads(pickle.dumps(cache))  # as a worker that is not forked gets it
    assert np.array_equal(again.load(3), cache.load(3))


def test_second_run_decodes_nothing(photos: Path, tmp_path: Path, decoded: list[str]) -> None:
    filled(photos, tmp_path / "cache")
    assert sorted(decoded) == [f"{index:02d}.png" for index in range(12)]
    decoded.clear()
    again = filled(photos, tmp_path / "cache")
    assert decoded == []
    assert_right(again)


def test_only_what_is_new_is_decoded(photos: Path, tmp_path: Path, decoded: list[str]) -> None:
    filled(photos, tmp_path / "cache")
    decoded.clear()
    write_photo(photos / "dog" / "11b.png", 99)
    (photos / "cat" / "01.png").rename(photos / "cat" / "moved.png")
    cache = filled(photos, tmp_path / "cache")
    assert decoded == ["11b.png"]
    assert_right(cache)


def test_changed_file_of_equal_size_and_time_is_decoded_anew(photos: Path, tmp_path: Path) -> None:
    file = photos / "cat" / "00.bmp"  # bitmaps of one size are files of one size
    Image.new("RGB", (60, 60), (255, 0, 0)).save(file)
    settle(photos)
    time.sleep(fingerprints._SETTLED_SECONDS + 0.2)  # its change time counts, which cannot be set
    filled(photos, tmp_path / "cache")
    size = file.stat().st_size
    Image.new("RGB", (60, 60), (0, 255, 0)).save(file)
    assert file.stat().st_size == size
    settle(photos)
    cache = filled(photos, tmp_path / "cache")
    assert_right(cache)
    assert tuple(cache.load(0)[0, 0]) == (0, 255, 0)


def test_known_files_are_not_read_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(photos)
    monkeypatch.setattr(fingerprints, "_SETTLED_SECONDS", 0.0)
    filled(photos, tmp_path / "cache")
    monkeypatch.setattr(FolderImageDataset, "fingerprint", lambda self, index: pytest.fail("read"))
    assert_right(filled(photos, tmp_path / "cache"))


def test_unreadable_image_says_why_each_time(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "01.png").write_bytes(b"no picture")
    for _ in range(2):
        cache = filled(photos, tmp_path / "cache")
        with pytest.raises(BadImageError, match="not an image"):
            cache.load(0)
        assert cache.load(1).shape == (32, 42, 3)


@pytest.mark.parametrize("lost", [1, 7, 50])
def test_torn_index_is_mended(photos: Path, tmp_path: Path, lost: int) -> None:
    cache = filled(photos, tmp_path / "cache")
    index = cache.folder / "index.bin"
    index.write_bytes(index.read_bytes()[:-lost])
    assert_right(filled(photos, tmp_path / "cache"))


def test_record_that_was_not_written_whole_is_no_record(photos: Path, tmp_path: Path) -> None:
    cache = filled(photos, tmp_path / "cache")
    index = cache.folder / "index.bin"
    data = bytearray(index.read_bytes())
    data[-20:] = bytes(20)  # as after a power cut: the length is there, the content is not
    index.write_bytes(bytes(data))
    assert_right(filled(photos, tmp_path / "cache"))


def test_lost_pixels_are_decoded_again(photos: Path, tmp_path: Path) -> None:
    cache = filled(photos, tmp_path / "cache")
    images = cache.folder / "data.bin"
    images.write_bytes(images.read_bytes()[: images.stat().st_size // 2])
    assert_right(filled(photos, tmp_path / "cache"))


def fill_in_child(root: Path, folder: Path, seconds: float) -> None:
    resize = KeepingResize.__call__

    def slow(self: KeepingResize, image: Any) -> Any:
        time.sleep(seconds)
        return resize(self, image)

    KeepingResize.__call__ = slow  # type: ignore[method-assign]
    cache_module._CHUNK = store._CHUNK = 2
    filled(root, folder)


def test_two_that_fill_at_once_share_the_work(photos: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=fill_in_child, args=(photos, tmp_path / "cache", 0.01))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    cache = filled(photos, tmp_path / "cache")
    assert_right(cache)
    size = (cache.folder / "data.bin").stat().st_size
    assert size == sum(image.nbytes for image in pixels(cache))  # each of them once


@pytest.mark.parametrize("after", [0.05, 0.15, 0.3])
def test_killed_filling_is_gone_on_with(photos: Path, tmp_path: Path, after: float) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=fill_in_child, args=(photos, tmp_path / "cache", 0.05))
    child.start()
    end = time.monotonic() + 30
    while not list((tmp_path / "cache").glob("*/data.bin")) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(after)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert_right(filled(photos, tmp_path / "cache"))


def test_full_disk_is_told_in_words_and_nothing_is_lost(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    def limited(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(cache_module, "_CHUNK", 2)
    monkeypatch.setattr(store, "_CHUNK", 2)
    try:
        limited(15_000)
        with pytest.raises(RunError, match="the disk is full"):
            filled(photos, tmp_path / "cache")
    finally:
        limited(resource.RLIM_INFINITY)
        signal.signal(signal.SIGXFSZ, before)
    assert_right(filled(photos, tmp_path / "cache"))


def test_folder_that_cannot_be_written_to_is_told(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match="cache_dir: cannot be used"):
        filled(photos, tmp_path / "cache")


def test_file_that_changes_while_it_is_read_is_told(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(file: Path, *rest: Any) -> Any:
        found = decode_image(file, *rest)
        write_photo(file, 1000)
        return found

    monkeypatch.setattr("classifier.data.datasets.decode_image", changing)
    with pytest.raises(RunError, match="changed while it was read"):
        filled(photos, tmp_path / "cache")


def test_error_that_passes_is_not_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(file: Path, *rest: Any) -> Any:
        raise BadImageError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("classifier.data.datasets.decode_image", failing)
        cache = filled(photos, tmp_path / "cache")
        with pytest.raises(BadImageError, match="Input/output error"):
            cache.load(0)
    assert cache.load(0).shape == (60, 80, 3)  # the file itself
    assert_right(filled(photos, tmp_path / "cache"))


class Inverted(FolderImageDataset):
    """A data set whose own code makes something else of the files."""

    def load(self, index: int) -> Any:
        return 255 - super().load(index)


def test_data_set_with_its_own_decoding_has_its_own_pixels(photos: Path, tmp_path: Path) -> None:
    filled(photos, tmp_path / "cache")
    resize = KeepingResize(None, PREPROCESSING, None)
    cache = ImageCache(tmp_path / "cache", Inverted(str(photos)), resize, 2)
    cache.fill(range(12))
    assert_right(cache)


def test_complete_cache_that_cannot_be_written_to_serves(photos: Path, tmp_path: Path) -> None:
    cache = filled(photos, tmp_path / "cache")
    for file in (cache.folder / "lock", cache.folder.parent / "files.bin"):
        file.unlink(missing_ok=True)
        file.mkdir()  # as little use as a read-only disk, for root too
    assert_right(filled(photos, tmp_path / "cache"))


# Through the data module


def module(root: Path, folder: Path | None, transforms: Sequence[Any] | None) -> ImageDataModule:
    data = ImageDataModule(
        {"train": FolderImageDataset(str(root))}, batch_size=4, num_workers=0,
        augmentations={"train": list(transforms) if transforms else None},
        create_dataset=folder is not None, cache_dir=str(folder) if folder else None,
    )  # fmt: skip
    data.preprocessing = PREPROCESSING
    data.setup("fit")
    return data


def test_evaluation_sees_the_same_pixels_with_and_without_the_cache(
    photos: Path, tmp_path: Path
) -> None:
    crop = [RandomResizedCrop(), A.HorizontalFlip()]
    for transforms in (None, crop):
        plain = module(photos, None, transforms)
        kept = module(photos, tmp_path / "cache", transforms)
        for stage in ("train", "val") if transforms is None else ("val",):
            for place in range(len(plain.stage(stage))):
                one, other = plain.stage(stage)[place][0], kept.stage(stage)[place][0]
                assert one.equal(other)


@pytest.mark.parametrize(
    "transforms",
    [
        [A.Resize(30, 40)],
        [A.SmallestMaxSize(40), A.CenterCrop(30, 30)],
        [A.LongestMaxSize(max_size_hw=(30, 50)), A.PadIfNeeded(50, 50)],
        [A.CenterCrop(50, 50), A.Resize(20, 20)],
    ],
)
def test_evaluation_by_a_list_sees_the_same_pixels_with_and_without_the_cache(
    photos: Path, tmp_path: Path, transforms: list[Any]
) -> None:
    stages = []
    for folder in (None, tmp_path / "cache"):
        data = module(photos, folder, [RandomResizedCrop()])
        data.augmentations["val"] = transforms
        stages.append(data.stage("val"))
    assert (stages[1].source.kept is None) == isinstance(transforms[0], A.CenterCrop)
    for place in range(len(stages[0])):
        assert stages[0][place][0].equal(stages[1][place][0])


def test_only_a_training_decodes_less_than_every_pixel(photos: Path) -> None:
    data = module(photos, None, [A.Resize(10, 10)])
    data.augmentations["val"] = [A.Resize(10, 10)]
    assert data.stage("train").source.min_side == 20
    assert data.stage("val").source.min_side is None


def test_cache_repeats_a_training_bit_for_bit(config: Any, save: Any, workplace: Path) -> None:
    config["data"]["init_args"]["create_dataset"] = True
    config["data"]["init_args"]["num_workers"] = 2
    one, other = main(["--config", save(config)]), main(["--config", save(config)])
    assert one is not None and other is not None
    assert one.metrics == other.metrics
    assert list((workplace / "runs" / ".image_cache").glob("*/data.bin"))


def test_data_set_of_ones_own_without_a_base_class_cannot_be_kept(config: Any, save: Any) -> None:
    sets = config["data"]["init_args"]["dataset_classes"]
    sets["train"] = {"class_path": "tests.data.test_datasets.PlainDataset"}
    config["data"]["init_args"]["create_dataset"] = True
    with pytest.raises(ConfigError, match="PlainDataset, which cannot be kept"):
        main(["--config", save(config)])
