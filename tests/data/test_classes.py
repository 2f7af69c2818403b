"""What the images are: task, class names, targets."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import ImageDataModule, main
from classifier.errors import ConfigError
from tests.data.painted import Painted, module

DATA = "data.init_args"


def test_class_names_of_the_configuration_rule() -> None:
    names = ["c", "b", "a"]
    data = module(Painted(["a", "b"] * 5), class_names=names, val_fraction=0.0)
    assert data.class_names == names
    assert Counter(data.stage("train").targets) == {2: 5, 1: 5}
    assert data.class_counts() == [0, 5, 5]
    with pytest.raises(ConfigError, match=f"{DATA}.class_names: lacks classes that .* has: a, got"):
        module(Painted(["a", "b"] * 5), class_names=["b", "c"])


@pytest.mark.parametrize("order", [["b", "a"], ["a", "b", "x"]])
def test_split_with_other_classes_keeps_the_indices_of_train_or_is_refused(order: Any) -> None:
    train, val = Painted(["a", "b", "c"] * 5), Painted(order * 3)
    if "x" in order:
        with pytest.raises(ConfigError, match="that training does not have: x; "):
            module(train, datasets={"val": val})
        return
    data = module(train, datasets={"val": val})
    assert data.stage("val").targets == [1, 0] * 3


def test_several_labels_become_zeros_and_ones() -> None:
    labels = [("a", "c"), (), ("b",), ("a",)] * 5
    data = module(Painted(labels), val_fraction=0.0)
    assert (data.task, data.class_names) == ("multilabel", ["a", "b", "c"])
    assert data.class_counts() == [10, 5, 5]
    images, targets, *_ = next(iter(data.train_dataloader()))
    assert (images.dtype, targets.dtype, targets.shape) == (torch.uint8, torch.float32, (20, 3))
    assert targets.sum(0).tolist() == [10.0, 5.0, 5.0]


def test_one_label_each_can_be_learnt_as_several() -> None:
    data = ImageDataModule({"train": Painted(["a", "b"] * 10)}, num_workers=0)
    data.task = "multilabel"
    data.setup("fit")
    assert data.stage("train")[0][1].sum() == 1.0


def test_class_folders_are_learnt_as_several_labels_when_the_model_says_so(
    config: Any, save: Any
) -> None:
    config["model"]["init_args"]["task"] = "multilabel"
    result = main(["--config", save(config)])
    assert result is not None
    tested = main(["--test", "--ckpt_path", result.output_dir])
    assert tested is not None
    with (Path(tested.output_dir) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"0", "1", "2"}
    assert "label_2" not in rows[0]


@pytest.mark.parametrize("labels", [[("a", "b"), None, ("a",)] * 5, ["a", "b", None] * 5])
def test_image_without_a_label_is_told(labels: Any) -> None:
    with pytest.raises(ConfigError, match="has 5 images without a class"):
        module(Painted(labels))


def test_several_labels_in_a_run_of_one_are_refused() -> None:
    data = ImageDataModule({"train": Painted([("a", "b"), ("a",)] * 5)}, num_workers=0)
    data.task = "multiclass"
    with pytest.raises(ConfigError, match="has images with several labels, got 'multiclass'"):
        data.setup("fit")


def test_folders_of_splits_taken_for_classes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    module(Painted(["train", "val"] * 9))
    assert "the classes are called train, val: is " in caplog.text
