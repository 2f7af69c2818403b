"""The Hub's data sets from local folders, and torchvision's from files written here."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier import main
from classifier.data.datasets import Sample
from classifier.data.decoding import BadImageError
from classifier.data.hub_datasets import HuggingFaceDataset
from classifier.data.torchvision_datasets import TorchvisionDataset
from classifier.errors import ConfigError
from tests.conftest import COLOURS, write_classes, write_image

datasets = pytest.importorskip("datasets")


@pytest.fixture
def saved(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set dictionary on disk, with class labels in an order of their own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    files = [write_image(workplace / f"{i}.png", c, i) for i, c in enumerate(COLOURS.values())]
    files.reverse()
    features = datasets.Features(
        image=datasets.Image(), kind=datasets.ClassLabel(names=["red", "green", "blue"]),
        tags=datasets.Sequence(datasets.ClassLabel(names=["cold", "warm"])),
        text=datasets.Value("string"),
    )  # fmt: skip
    rows = {
        "image": [str(file) for file in files], "kind": [0, 1, 2], "tags": [[1, 1], [], [0]],
        "text": ["red", "green", "blue"],
    }  # fmt: skip
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk("saved")
    return workplace / "saved"


def test_saved_folder_gives_the_names_in_its_own_order(saved: Path) -> None:
    dataset = HuggingFaceDataset("saved", target_column="kind")
    assert dataset.class_names == ["red", "green", "blue"]
    assert dataset.targets == [2, 1, 0]
    assert dataset.load(2).shape == (32, 32, 3)
    assert dataset.load(2)[..., 0].mean() > 150
    assert len(HuggingFaceDataset("saved", split="test", target_column="kind")) == 1
    assert dataset.fingerprint(0) != dataset.fingerprint(1)


def test_split_that_would_be_ignored_is_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="split: the folder holds one data set without splits"):
        len(HuggingFaceDataset("saved/train", split="test", target_column="kind"))
    assert len(HuggingFaceDataset("saved/train", target_column="kind")) == 3
    with pytest.raises(ConfigError, match="split: FakeData has no splits, got 'test'"):
        len(TorchvisionDataset("FakeData", split="test"))


def test_list_column_is_several_labels(saved: Path) -> None:
    dataset = HuggingFaceDataset("saved", target_column="tags")
    assert dataset.is_multilabel
    assert [sample.label for sample in dataset.samples] == [("cold",), (), ("warm",)]


def test_text_column_gives_labels_too(saved: Path) -> None:
    assert HuggingFaceDataset("saved", target_column="text").class_names == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "target_column: which column holds the labels?, got None. The columns are image, kind, tags, text"),
        ({"target_column": "knid"}, "Did you mean 'kind'?"),
        ({"image_column": "text"}, "image_column: is no column of images, got 'text'. The columns of images are image"),
        ({"split": "trian"}, "split: the data set has no such split, got 'trian'. It has train, test"),
    ],
)  # fmt: skip
def test_mistake_is_told_with_its_key(saved: Path, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        len(HuggingFaceDataset("saved", **arguments))
    assert message in str(caught.value)


def test_imagefolder_is_read(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", workplace / "cache")
    write_classes(workplace / "pictures" / "train", 3)
    dataset = HuggingFaceDataset("imagefolder", data_dir="pictures")
    assert dataset.class_names == ["blue", "green", "red"]
    assert sorted(dataset.targets) == [0] * 3 + [1] * 3 + [2] * 3
    assert len({sample.path for sample in dataset.samples}) == 9


def test_damaged_image_is_a_bad_image(workplace: Path) -> None:
    rows = {"image": [{"bytes": b"no picture", "path": None}], "label": [0]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a"]))
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("one")
    with pytest.raises(BadImageError):
        HuggingFaceDataset("one").load(0)


def test_missing_library_is_told(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package datasets.*pip install datasets"):
        len(HuggingFaceDataset("org/name"))


def test_data_set_of_the_hub_trains(saved: Path, config: Any, save: Any) -> None:
    # The rows stand in the order of their paths.
    assert [sample.path for sample in HuggingFaceDataset("saved", target_column="kind").samples] == [
        "0.png", "1.png", "2.png",
    ]  # fmt: skip
    part = {"class_path": "HuggingFaceDataset", "init_args": {"name": "saved", "target_column": "kind"}}  # fmt: skip
    config["data"]["init_args"]["dataset_classes"] = {"train": part, "val": part}
    result = main(["--config", save(config)])
    assert result is not None and result.status == "completed"
    names = (Path(result.output_dir) / "log.txt").read_text()
    assert "red 2, green 2, blue 2" in names


def test_row_without_an_image_is_a_bad_image(workplace: Path) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a"]))
    rows = {"image": [None, {"bytes": b"", "path": None}], "label": [0, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("none")
    dataset = HuggingFaceDataset("none")
    assert [sample.label for sample in dataset.samples] == ["a", None]
    for index in range(2):
        with pytest.raises(BadImageError, match="the row has no image"):
            dataset.load(index)


# torchvision


def write_mnist(root: Path, number: int = 12) -> None:
    """The four files of MNIST, as the original has them."""
    rng = np.random.default_rng(0)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = rng.integers(0, 255, (number, 28, 28), dtype=np.uint8)
        labels = np.arange(number, dtype=np.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, number, 28, 28) + images.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 2049, number) + labels.tobytes()
        )
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as stream:
            stream.write(b"")


def test_mnist_by_name(workplace: Path) -> None:
    write_mnist(workplace / "data")
    dataset = TorchvisionDataset("MNIST")
    assert dataset.class_names[3] == "3 - three"
    assert dataset.targets == [i % 10 for i in range(12)]
    assert dataset.load(0).shape == (28, 28, 3)
    assert len(TorchvisionDataset("MNIST", split="test")) == 12


def test_folder_class_with_arguments_and_generated_images(workplace: Path) -> None:
    write_classes(workplace / "eurosat" / "2750", 2)
    dataset = TorchvisionDataset("EuroSAT", root=".")
    assert dataset.class_names == ["blue", "green", "red"]
    assert dataset.samples[5] == Sample("eurosat/2750/red/01.png", "red")
    # The files are decoded as everywhere: transparency lies over white.
    Image.new("RGBA", (9, 9), (200, 0, 0, 0)).save("eurosat/2750/red/01.png")
    assert dataset.load(5).min() == 255
    assert dataset.file(5) is not None
    fake = TorchvisionDataset("FakeData", arguments={"size": 6, "num_classes": 3})
    assert len(fake) == 6
    assert set(fake.class_names) <= {"0", "1", "2"}
    assert fake.load(0).shape == (224, 224, 3)


def test_names_of_deep_categories_are_found(workplace: Path) -> None:
    for number in range(2):
        kind = f"0000{number}_Kingdom_Phylum_Class_Order_Family_Genus_species{number}"
        write_image(workplace / "data" / "2021_valid" / kind / "a.jpg", COLOURS["red"], number)
    found = TorchvisionDataset("INaturalist", arguments={"version": "2021_valid"})
    assert [name[-8:] for name in found.class_names] == ["species0", "species1"]
    assert found.targets == [0, 1]
    assert found.load(1).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "MINST"}, "name: torchvision has no such data set, got 'MINST'"),
        ({"name": "MINST"}, "Did you mean 'MNIST'?"),
        ({"name": "MNIST", "split": "val"}, "split: MNIST has train and test, got 'val'"),
        ({"name": "OxfordIIITPet"}, "split: OxfordIIITPet cannot be opened (Unknown value 'train'"),
        ({"name": "CIFAR10"}, "name: CIFAR10 cannot be opened (Dataset not found"),
        ({"name": "CIFAR10"}, "Write download: true, or give the folder"),
    ],
)
def test_torchvision_mistake_is_told(workplace: Path, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        len(TorchvisionDataset(**arguments))
    assert message in str(caught.value)


def test_data_set_of_torchvision_trains(workplace: Path, config: Any, save: Any) -> None:
    write_classes(workplace / "eurosat" / "2750", 5)
    Image.new("L", (20, 30), 90).save(workplace / "eurosat" / "2750" / "red" / "grey.png")
    part = {"class_path": "TorchvisionDataset", "init_args": {"name": "EuroSAT", "root": "."}}
    config["data"]["init_args"]["dataset_classes"]["train"] = part
    result = main(["--config", save(config)])
    assert result is not None and result.status == "completed"
