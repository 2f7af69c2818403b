"""Images for a verification: from where, how many, and always the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from classifier.data.datamodule import ImageDataModule
from classifier.data.datasets import ImageDataset, Sample
from classifier.data.decoding import decode_image
from classifier.data.folders import FolderImageDataset
from classifier.errors import ConfigError
from classifier.export.images import find_images
from tests.conftest import COLOURS, write_classes, write_image


def module(**roots: Path | ImageDataset) -> ImageDataModule:
    datasets: dict[str, Any] = {
        stage: FolderImageDataset(str(root)) if isinstance(root, Path) else root
        for stage, root in roots.items()
    }
    data = ImageDataModule(datasets, val_fraction=0.0, num_workers=0)
    data.class_names, data.task = sorted(COLOURS), "multiclass"
    return data


def test_validation_images_come_first_and_evenly(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", 20)
    val = write_classes(tmp_path / "val", 15, seed=500)
    found = find_images(module(train=train, val=val), [], tmp_path)
    labels = [image.file.parent.name for image in found]
    assert found[0].name == f"validation: {found[0].file.relative_to(val)}"
    assert len(found) == 32 and sorted(map(labels.count, COLOURS)) == [10, 11, 11]
    assert all(image.file.is_relative_to(val) and image.file.is_absolute() for image in found)
    assert found == find_images(module(train=train, val=val), [], tmp_path)


def test_other_stages_fill_up(tmp_path: Path, caplog: Any) -> None:
    val = write_classes(tmp_path / "val", 3)
    test = write_classes(tmp_path / "test", 4, seed=500)
    train = write_classes(tmp_path / "train", 20, seed=900)
    data = module(train=train, val=val, test=test, predict=test)
    found = find_images(data, [], tmp_path)
    parts = [image.file.relative_to(tmp_path).parts[0] for image in found]
    assert [parts.count(name) for name in ("val", "test", "train")] == [9, 12, 11]
    assert not caplog.records


def test_undecodable_images_are_replaced_by_others(tmp_path: Path, caplog: Any) -> None:
    val = write_classes(tmp_path / "val", 12)
    for file in sorted((val / "red").glob("*.png"))[:4]:
        file.write_bytes(b"no image")
    found = find_images(module(train=val, val=val), [], tmp_path)
    assert len(found) == 32
    assert "cannot be decoded: validation: red/" in caplog.text


def test_few_images_are_all_used_with_a_warning(tmp_path: Path, caplog: Any) -> None:
    train = write_classes(tmp_path / "train", 2)
    assert len(find_images(module(train=train), [], tmp_path)) == 6
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("the export is verified on 6 images, all that")


def test_moved_data_is_refused_with_the_remedy(tmp_path: Path) -> None:
    data = module(train=tmp_path / "gone", val=tmp_path / "gone too")
    with pytest.raises(ConfigError) as caught:
        find_images(data, [], tmp_path)
    assert "val.init_args.root: no such folder, got" in str(caught.value)
    assert str(caught.value).endswith("Name images: --export onnx photos/.")


def test_what_is_left_of_moved_data_is_used(tmp_path: Path) -> None:
    test = write_classes(tmp_path / "test", 12)
    found = find_images(module(train=tmp_path / "gone", test=test), [], tmp_path)
    assert len(found) == 32


def test_given_images_alone_are_used(tmp_path: Path, caplog: Any) -> None:
    train = write_classes(tmp_path / "train", 20)
    photo = write_image(tmp_path / "photo.png", (1, 2, 3), 1)
    (tmp_path / "broken.jpg").write_bytes(b"")
    paths = [str(photo), str(tmp_path / "broken.jpg")]
    (found,) = find_images(module(train=train), paths, tmp_path)
    assert found.file == photo and "broken.jpg" in caplog.text
    with pytest.raises(ConfigError, match="none of these images can be decoded"):
        find_images(module(train=train), paths[1:], tmp_path)
    with pytest.raises(ConfigError, match=r"--export: no such file or folder, got 'nowhere'"):
        find_images(module(train=train), ["nowhere"], tmp_path)


class Inverted(ImageDataset):
    """Decodes in its own way."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def scan(self) -> list[Sample]:
        return [Sample(path.name, "red") for path in sorted(self.root.glob("red/*.png"))]

    def file(self, index: int) -> Path:
        return self.root / "red" / self.samples[index].path

    def load(self, index: int) -> NDArray[np.uint8]:
        return 255 - np.asarray(Image.open(self.file(index)))


def test_images_that_only_their_data_set_decodes_become_files(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "images", 3)
    (tmp_path / "copies").mkdir()
    dataset = Inverted(root)
    found = find_images(module(val=dataset, train=root), [], tmp_path / "copies")
    copied = [image for image in found if image.file.parent.name == "copies"]
    assert sorted(image.name for image in copied) == [
        f"validation: 0{index}.png" for index in range(3)
    ]
    for image in copied:
        index = int(image.name[-6:-4])
        assert np.array_equal(decode_image(image.file), dataset.load(index))
