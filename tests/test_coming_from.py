"""Every key that the tables for people of other programs name is a key of this one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import albumentations
import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks

import classifier
from classifier import ImageClassifier, ImageDataModule
from classifier.config import TOP_LEVEL_KEYS
from classifier.evaluation.settings import EvaluationSettings
from classifier.manual import HELP
from classifier.model import losses
from classifier.model.heads import HeadLayers
from classifier.model.mixing import Mixing
from classifier.model.parameter_groups import GROUP_KEYS
from classifier.model.schedules import _SHORT_SCHEDULERS, _WARMUP_KEYS
from classifier.tuning.settings import _KEYS

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/coming_from.md")
}
ROW = re.compile(r"^\| (?P<there>.+?) \| (?P<here>.+?) \|(?P<remark>.*\|)?$", flags=re.MULTILINE)


def arguments_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


# The keys inside of mappings that the parser takes for any mapping.
MAPPINGS = {
    "model.init_args.optimizer_config": {"name", *GROUP_KEYS, *arguments_of(torch.optim.AdamW)},
    "model.init_args.scheduler_config": {
        "name", *_WARMUP_KEYS, *(key for keys in _SHORT_SCHEDULERS.values() for key in keys),
    },
    "model.init_args.loss_config": {
        "name",
        *arguments_of(losses.cross_entropy), *arguments_of(losses.bce),
        *arguments_of(losses.focal),
    },
    "model.init_args.mixup_config": arguments_of(Mixing),
    "model.init_args.head": {field.name for field in fields(HeadLayers)},
    "data.init_args.dataset_classes": {"train", "val", "test", "predict"},
    "data.init_args.augmentations": {"train", "val"},
    "model.init_args": arguments_of(ImageClassifier),
    "data.init_args": arguments_of(ImageDataModule),
    "trainer": arguments_of(L.Trainer),
    "optuna": set(_KEYS),
    "evaluation": {field.name for field in fields(EvaluationSettings)},
}  # fmt: skip


def exists(key: str) -> bool:
    """Whether a key of the configuration, `Class.argument` or a flag is one of this program's."""
    if key.startswith("--"):
        return bool(re.search(rf"(?<!\S){key}(?!\S)", HELP))
    parent, _, name = key.rpartition(".")
    if not parent:
        return name in TOP_LEVEL_KEYS
    if parent in MAPPINGS:
        return name in MAPPINGS[parent]
    for library in (classifier, lightning_callbacks, albumentations):
        found = getattr(library, parent, None)
        if isinstance(found, type):
            return name in arguments_of(found)
    return False


def rows(page: str) -> Iterator[tuple[str, str, str]]:
    for match in ROW.finditer(PAGES[page]):
        there, here, remark = match["there"], match["here"], match["remark"] or ""
        if here != "Here" and not there.startswith("---"):
            yield there, here, remark


def named_keys(page: str) -> list[str]:
    text = PAGES[page]
    if page == "README.md":
        start = text.index("Coming from another program")
        text = text[start : text.index("\n## ", start)]
    return [key for match in ROW.finditer(text) for key in re.findall(r"`([^`]+)`", match["here"])]


@pytest.mark.parametrize("page", PAGES)
def test_key_that_a_table_names_exists(page: str) -> None:
    keys = named_keys(page)
    assert len(keys) > 20
    assert [key for key in keys if not exists(key)] == []


@pytest.mark.parametrize(
    "key",
    ["--vall", "seed", "model.lr", "model.init_args.optimizer_config.learning_rate",
     "EarlyStopping.threshold", "CoarseDropout.max_holes", "trainer.epochs", "Nothing.p"],
)  # fmt: skip
def test_key_that_there_is_not_is_found_out(key: str) -> None:
    assert not exists(key)


def test_every_option_has_a_key_or_a_reason() -> None:
    for there, here, remark in rows("docs/coming_from.md"):
        reason = here == "no counterpart" and remark.strip().startswith("because ")
        assert reason or "`" in here, f"{there}: {here}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    headings = re.findall(r"^## (.+)$", PAGES[page], flags=re.MULTILINE)
    places = {heading.lower().replace(" ", "-") for heading in headings}
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if link.startswith("#"):
            assert link[1:] in places, link
        elif "://" not in link:
            assert (ROOT / page).parent.joinpath(link).is_file(), link


def test_every_recipe_is_linked() -> None:
    for file in (ROOT / "configs/recipes").glob("*.yaml"):
        assert f"](configs/recipes/{file.name})" in PAGES["README.md"], file.name
