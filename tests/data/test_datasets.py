from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Dataset

from classifier import FolderImageDataset, ImageDataset, main
from classifier.data.datasets import Sample
from classifier.data.folders import ImagePathsDataset
from classifier.data.paths import find_images
from classifier.errors import ConfigError
from tests.conftest import COLOURS, write_classes, write_image


def test_class_folders_give_sorted_classes_and_samples(tmp_path: Path) -> None:
    dataset = FolderImageDataset(str(write_classes(tmp_path / "r", 2)))
    assert dataset.class_names == ["blue", "green", "red"]
    assert dataset.samples[0] == Sample("blue/00.png", "blue")
    assert dataset.targets == [0, 0, 1, 1, 2, 2]
    image, target = dataset[5]
    assert image.shape == (32, 32, 3) and target == 2


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    dataset = FolderImageDataset(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="no such folder"):
        len(dataset)


def test_junk_is_ignored_and_counted(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    root = write_classes(tmp_path / "r", 1)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "more.txt", ".hidden.png"):
        (root / "red" / name).write_bytes(b"x")
    (root / ".git").mkdir()
    write_image(root / ".git" / "x.png", COLOURS["red"], 0)
    assert sorted(find_images(root).images) == ["blue/00.png", "green/00.png", "red/00.png"]
    assert "ignored 2 files that are no images (2 x .txt)" in caplog.text


def test_upper_case_and_nested_and_unicode_names_work(tmp_path: Path) -> None:
    for name in ("a/X.JPG", "a/b/c d.Png", "ä/ö,ü.jpeg"):
        write_image(tmp_path / name, COLOURS["red"], 0)
    assert sorted(find_images(tmp_path).images) == ["a/X.JPG", "a/b/c d.Png", "ä/ö,ü.jpeg"]


def test_symbolic_link_loop_ends(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "r", 1)
    os.symlink(root, root / "red" / "loop")
    assert len(find_images(root).images) == 3


@pytest.mark.parametrize("link", ["aalink", "zzlink"])
def test_real_class_folder_wins_when_a_link_leads_to_it(
    tmp_path: Path, caplog: Any, link: str
) -> None:
    root = write_classes(tmp_path / "r", 1)
    os.symlink("green", root / link)
    dataset = FolderImageDataset(str(root))
    assert dataset.class_names == ["blue", "green", "red"] and len(dataset) == 3
    assert dataset.empty_folders == {}
    told = f"left out 1 links to folders that are there under another name ({link} -> green)"
    assert told in caplog.text


def test_link_is_a_class_when_it_leads_elsewhere(tmp_path: Path, caplog: Any) -> None:
    root = write_classes(tmp_path / "r", 1, ["red"])
    elsewhere = write_classes(tmp_path / "elsewhere", 2, ["green"])
    for link in ("also", "grass"):
        os.symlink(elsewhere / "green", root / link)
    os.symlink(root / "red", elsewhere / "green" / "back")
    assert sorted(find_images(root).images) == ["also/00.png", "also/01.png", "red/00.png"]
    assert f"(grass -> {elsewhere / 'green'}, also/back -> red)" in caplog.text


def test_empty_folders_are_those_without_an_image_at_any_depth(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "r", 1, ["red"])
    write_image(root / "deep/er/x.png", COLOURS["red"], 0)
    for folder in ("void", "hollow/inside", ".hidden"):
        (root / folder).mkdir(parents=True)
    (root / "void" / "notes.txt").write_text("")
    os.symlink(tmp_path / "nowhere", root / "dangling")
    dataset = FolderImageDataset(str(root))
    assert dataset.class_names == ["deep", "red"]
    assert dataset.empty_folders == {
        "hollow": "1 folders and 0 files",
        "void": "0 folders and 1 files (.txt)",
    }


def test_several_paths_are_told_as_they_were_given(tmp_path: Path) -> None:
    one = write_image(tmp_path / "one/x.png", COLOURS["red"], 0)
    two = write_image(tmp_path / "two/x.png", COLOURS["blue"], 0)
    dataset = ImagePathsDataset([str(one), str(two)])
    assert [sample.path for sample in dataset.samples] == [one.as_posix(), two.as_posix()]


class Squares(ImageDataset):
    """A user's own data set."""

    def __init__(self, number: int = 6, augmentations: Any = None) -> None:
        super().__init__(augmentations)
        self.number = number

    def scan(self) -> list[Sample]:
        return [Sample(f"{i}", "dark" if i % 2 else "light") for i in range(self.number)]

    def load(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.full((32, 32, 3), 40 if index % 2 else 220, dtype=np.uint8)


class PlainDataset(Dataset[Any]):
    """A user's own data set that is nothing but a map-style data set, torchvision's names."""

    def __init__(self, number: int = 8, augmentations: Any = None) -> None:
        self.augmentations = augmentations
        self.classes = ["dark", "light"]
        self.targets = [i % 2 for i in range(number)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = np.full((40, 40, 3), 40 + 150 * self.targets[index], dtype=np.uint8)
        if self.augmentations is not None:
            image = self.augmentations(image=image)["image"]
        return image, self.targets[index]


@pytest.mark.parametrize("name", ["Squares", "PlainDataset"])
def test_own_data_set_by_class_path_trains(config: Any, save: Any, name: str) -> None:
    sets = config["data"]["init_args"]["dataset_classes"]
    sets["train"] = {"class_path": f"{__name__}.{name}", "init_args": {"number": 12}}
    result = main(["--config", save(config)])
    assert result is not None and result.status == "completed"


def test_own_data_set_without_augmentations_is_told_what_is_missing(config: Any, save: Any) -> None:
    sets = config["data"]["init_args"]["dataset_classes"]
    sets["train"] = {"class_path": f"{__name__}.Stubborn"}
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    assert "train: Stubborn has no attribute augmentations" in str(caught.value)


class Stubborn(Dataset[Any]):
    classes = ("dark", "light")
    targets = (0, 1, 0, 1)

    def __len__(self) -> int:
        return 4


def test_pipe_with_the_name_of_an_image_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_classes(tmp_path, 1)
    os.mkfifo(tmp_path / "red" / "x.png")
    (tmp_path / "red" / "loop.png").symlink_to("loop.png")
    found = sorted(find_images(tmp_path).images)
    assert found == ["blue/00.png", "green/00.png", "red/00.png", "red/loop.png"]
    assert "1 x .png that is a pipe or device" in caplog.text
