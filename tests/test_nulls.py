"""Null where a type does not allow it: refused before anything is made."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

import classifier
from classifier.entry import console
from classifier.errors import ConfigError
from classifier.explain import check_names
from classifier.nulls import refused_nulls
from classifier.trees import override

MODEL = "model.init_args"
DATA = "data.init_args"
TRAIN = f"{DATA}.dataset_classes.train.init_args"

# (key, types that fit, example)
NULLS: list[tuple[str, str, str]] = [
    (f"{DATA}.batch_size", "a whole number", "Write for example 32, or leave it out."),
    (f"{DATA}.num_workers", "a whole number or auto", "Write for example auto, or leave it out."),
    (f"{DATA}.fold", "a whole number", "Write for example 0, or leave it out."),
    (f"{DATA}.create_dataset", "true or false", "Write for example false, or leave it out."),
    (f"{DATA}.group_duplicates", "true or false", "Write for example true, or leave it out."),
    (f"{DATA}.cache_features", "true or false", "Write for example true, or leave it out."),
    (f"{DATA}.auto_batch_size", "true or false", "Write for example false, or leave it out."),
    (f"{DATA}.background", "a list", ""),
    (f"{DATA}.on_bad_image", "text", "Write for example error, or leave it out."),
    (f"{DATA}.dataset_classes", "a mapping",
     "Write {train: {class_path: FolderImageDataset, init_args: {root: FOLDER}}}."),
    (f"{TRAIN}.root", "text", ""),
    (f"{MODEL}.model_name", "text", ""),
    (f"{MODEL}.pretrained", "true or false", "Write for example true, or leave it out."),
    (f"{MODEL}.freeze_encoder", "true or false or a number",
     "Write for example false, or leave it out."),
    (f"{MODEL}.compile", "true or false or text", "Write for example false, or leave it out."),
    ("evaluation.report", "true or false", "Write for example true, or leave it out."),
]  # fmt: skip


@pytest.mark.parametrize(("key", "types", "example"), NULLS, ids=[row[0] for row in NULLS])
def test_null_is_refused_when_the_type_does_not_allow_it(
    config: Any, key: str, types: str, example: str
) -> None:
    override(config, key, None)
    with pytest.raises(ConfigError) as caught:
        check_names(config)
    assert str(caught.value) == f"{key}: must be {types}, got None. {example}".rstrip()


def test_null_on_the_command_line_ends_with_code_2(
    config: Any, save: Any, workplace: Path, monkeypatch: Any, capfd: Any
) -> None:
    words = ["main.py", "--config", save(config), "--data.init_args.num_workers", "null"]
    monkeypatch.setattr(sys, "argv", words)
    assert console() == 2
    assert capfd.readouterr().err.splitlines() == [
        "data.init_args.num_workers: must be a whole number or auto, got None. "
        "Write for example auto, or leave it out."
    ]
    assert not (workplace / "runs").exists()


def test_null_is_taken_by_every_own_class_that_is_named_when_its_default_is_null() -> None:
    for name in classifier.__all__:
        cls = getattr(classifier, name)
        if isinstance(cls, type):
            found = inspect.signature(cls).parameters.values()
            given = {one.name: None for one in found if one.default is None}
            assert list(refused_nulls(cls, given)) == []


def test_null_is_refused_when_a_subclass_hands_it_on() -> None:
    class Own(classifier.ImageDataModule):
        def __init__(self, depth: int = None, **more: Any) -> None:  # type: ignore[assignment]  # noqa: RUF013
            super().__init__(**more)

    refused = refused_nulls(Own, {"depth": None, "batch_size": None, "seed": None})
    assert list(refused) == [("batch_size", ["int"], "32")]
