"""ImageDataModule: data sets, splits, pipelines and loaders of all stages."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, cast

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from classifier.data.augmentations import TransformList, build_pipeline
from classifier.data.loading import (
    EpochSampler,
    ResumableLoader,
    StageDataset,
    collate,
    init_worker,
)
from classifier.data.splitting import stratified_split
from classifier.errors import ConfigError
from classifier.preprocessing import Preprocessing

log = logging.getLogger(__name__)

DATASETS = "data.init_args.dataset_classes"
AUGMENTATIONS = "data.init_args.augmentations"
STAGES = ("train", "val", "test", "predict")


class ImageDataModule(L.LightningDataModule):
    """Images for training, validation, test and prediction.

    Args:
        dataset_classes: `train`, `val`, `test`, `predict`: each a data set (FolderImageDataset or
            your own class with an `augmentations` argument) or null. val: null holds out
            `val_fraction` of train.
        batch_size: Images per device and step, at least 1.
        num_workers: Processes that decode; 0 decodes in the training process.
        create_dataset: Keep decoded images in an on-disk cache for later epochs and runs.
        val_fraction: Part of train that is held out when val is null, in [0, 1); stratified.
        augmentations: `train`, `val`: lists of Albumentations transforms; null is the encoder's own
            preprocessing. test and predict use val's.
        seed: Of the split, the shuffling and the augmentations; null is the run's seed_everything.

    Raises:
        ConfigError: a value out of its range, an unknown stage, or data that cannot be used.
    """

    def __init__(
        self,
        dataset_classes: dict[str, Dataset | None],  # type: ignore[type-arg]  # jsonargparse's form
        batch_size: int = 32,
        num_workers: int = 4,
        create_dataset: bool = False,
        val_fraction: float = 0.2,
        augmentations: dict[str, TransformList | None] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.dataset_classes: dict[str, Any] = dict(dataset_classes)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.augmentations = dict(augmentations or {})
        self.seed = seed
        self.class_names: list[str] | None = None
        self.preprocessing: Preprocessing | None = None
        self._stages: dict[str, StageDataset] = {}
        self._split: tuple[list[int], list[int]] | None = None
        _check_minimum("batch_size", batch_size, 1)
        _check_minimum("num_workers", num_workers, 0)
        if not 0.0 <= val_fraction < 1.0:
            raise ConfigError(
                "data.init_args.val_fraction", "must be in [0, 1)", got=val_fraction,
                remedy="Write for example 0.2",
            )  # fmt: skip
        if create_dataset:
            raise ConfigError(
                "data.init_args.create_dataset", "the on-disk cache is not available yet", got=True,
                remedy="Write false",
            )  # fmt: skip
        _check_stages(self.dataset_classes, DATASETS, STAGES)
        _check_stages(self.augmentations, AUGMENTATIONS, ("train", "val"))

    # Classes

    def setup(self, stage: str) -> None:
        """Scan the data of a stage and decide the class names, once.

        Args:
            stage: fit, validate, test or predict.

        Raises:
            ConfigError: no data for the stage, too few classes, or classes that train lacks.
        """
        if stage == "predict":
            self._source("predict")
            return
        if self.class_names is None:
            train = self._source("train")
            self.class_names = list(class_names_of(train, f"{DATASETS}.train"))
            if len(self.class_names) < 2:
                raise ConfigError(
                    f"{DATASETS}.train", "needs at least two classes", got=self.class_names,
                    remedy="Put the images into one sub-folder per class",
                )  # fmt: skip
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if name == "val" and self.dataset_classes.get("val") is None:
                self._source("train")
            elif name != "val" or self.dataset_classes.get("val") is not None:
                self._targets(name)

    def _source(self, name: str) -> Any:
        dataset = self.dataset_classes.get(name)
        if dataset is None:
            raise ConfigError(
                f"{DATASETS}.{name}", "is not configured", got=None,
                remedy=f"Add --{DATASETS}.{name} "
                "'{class_path: FolderImageDataset, init_args: {root: FOLDER}}'",
            )  # fmt: skip
        try:
            len(dataset)
        except ConfigError as error:
            if error.key != "root":
                raise
            raise error.at(f"{DATASETS}.{name}.init_args.root") from error
        return dataset

    def _targets(self, name: str) -> list[int]:
        """Class indices of a data set in the run's class list."""
        dataset = self._source(name)
        key = f"{DATASETS}.{name}"
        own = class_names_of(dataset, key)
        assert self.class_names is not None
        unknown = [label for label in own if label not in self.class_names]
        if unknown:
            raise ConfigError(
                key, f"has classes that training does not have: {', '.join(unknown)}; "
                f"training has {', '.join(self.class_names)}",
                remedy="Use the same class folders everywhere",
            )  # fmt: skip
        missing = [label for label in self.class_names if label not in own]
        if missing:
            log.warning("%s has no images of: %s", key, ", ".join(missing))
        index = [self.class_names.index(label) for label in own]
        targets = targets_of(dataset, key)
        if any(target < 0 for target in targets):
            first = targets.index(-1)
            raise ConfigError(
                key, "has images outside the class folders", got=dataset.describe(first),
                remedy="Move every image into the folder of its class",
            )  # fmt: skip
        return [index[target] for target in targets]

    # Stages

    def stage(self, name: str) -> StageDataset:
        """The data set of a stage, made at the first call.

        Args:
            name: train, val, test or predict.
        """
        if name not in self._stages:
            self._stages[name] = self._make_stage(name)
        return self._stages[name]

    def summary(self) -> str:
        """What was found, in one line: classes with their numbers of images, and the split."""
        assert self.class_names is not None
        parts = {
            name: self.stage(name)
            for name in ("train", "val")
            if name == "train" or self.has_validation()
        }
        counts = Counter(target for part in parts.values() for target in part.targets)
        classes = [f"{name} {counts[index]}" for index, name in enumerate(self.class_names)]
        shown = classes if len(classes) <= 12 else [*classes[:10], f"... {classes[-1]}"]
        split = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        return f"{counts.total()} images ({split}) in {len(classes)} classes: {', '.join(shown)}"

    def describe(self, stage: str, place: int) -> str:
        """The path of one image of a stage, for messages."""
        return self.stage(stage).path(place)

    def has_validation(self) -> bool:
        """Whether there are images to validate on."""
        return self.dataset_classes.get("val") is not None or self.val_fraction > 0

    def _make_stage(self, name: str) -> StageDataset:
        source, indices, targets = self._members(name)
        _check_augmentations(source, f"{DATASETS}.{name}")
        which = "train" if name == "train" else "val"
        pipeline, resized = build_pipeline(
            self.augmentations.get(which), self._preprocessing(), f"{AUGMENTATIONS}.{which}"
        )
        if resized and name in ("train", "val"):
            log.info(
                "%s.%s leaves images at different sizes: the encoder's resize follows it",
                AUGMENTATIONS, which,
            )  # fmt: skip
        return StageDataset(
            source, indices, targets, pipeline, self._seed(), tolerant=name == "predict"
        )

    def _members(self, name: str) -> tuple[Any, list[int], list[int]]:
        if name == "predict":
            source = self._source("predict")
            return source, list(range(len(source))), [-1] * len(source)
        held_out = self.dataset_classes.get("val") is None
        source_name = "train" if name == "val" and held_out else name
        targets = self._targets(source_name)
        source = self._source(source_name)
        indices = list(range(len(targets)))
        if held_out and self.val_fraction > 0 and name in ("train", "val"):
            names = [sample_name(source, index) for index in indices]
            kept, held = stratified_split(names, targets, self.val_fraction, self._seed())
            indices = kept if name == "train" else held
        return source, indices, [targets[index] for index in indices]

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is not None:
            return self.preprocessing
        model = getattr(self.trainer, "lightning_module", None)
        return cast(Preprocessing, getattr(model, "preprocessing", None) or Preprocessing())

    def _seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    # Loaders

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled by the seed and the epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """In the order of the paths; none when there is nothing to validate on."""
        return self._loader("val") if self.has_validation() else []

    def test_dataloader(self) -> DataLoader[Any]:
        """In the order of the paths."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """In the order of the paths."""
        return self._loader("predict")

    def _loader(self, name: str, shuffle: bool = False) -> DataLoader[Any]:
        dataset = self.stage(name)
        seed = self._seed()
        workers = min(self.num_workers, max(0, len(dataset) - 1))
        replicas, rank = _world(self.trainer)
        sampler = None
        if shuffle:
            sampler = EpochSampler(dataset, replicas, rank, shuffle=True, seed=seed)
        remainder = (len(dataset) // replicas) % self.batch_size
        loader = ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            # BatchNorm cannot train on one image: a last batch of one is left out, another
            # image every epoch.
            drop_last=shuffle and remainder == 1 and len(dataset) // replicas > 1,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=init_worker,
            # Of its own, so that making an iterator leaves the global random state alone.
            generator=torch.Generator().manual_seed(seed),
        )
        if shuffle and self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            loader.num_batches_done = lambda: progress.current.ready
        return loader


def class_names_of(dataset: Any, key: str) -> list[str]:
    """The class names of any data set: `class_names`, or torchvision's `classes`.

    Raises:
        ConfigError: it has neither.
    """
    names = getattr(dataset, "class_names", None) or getattr(dataset, "classes", None)
    if not names:
        raise ConfigError(
            key, f"{type(dataset).__name__} has no class names",
            remedy="Put the images into one sub-folder per class, or give your data set class a "
            "list class_names",
        )  # fmt: skip
    return [str(name) for name in names]


def targets_of(dataset: Any, key: str) -> list[int]:
    """The class index of every sample of any data set.

    Raises:
        ConfigError: it has no `targets`.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None:
        raise ConfigError(
            key, f"{type(dataset).__name__} has no targets",
            remedy="Give your data set class a list targets with one class index per sample",
        )  # fmt: skip
    return [int(target) for target in targets]


def sample_name(dataset: Any, index: int) -> str:
    """A stable name of a sample: its path where there is one."""
    samples = getattr(dataset, "samples", None)
    path = getattr(samples[index], "path", None) if samples is not None else None
    return str(index) if path is None else str(path)


def _check_augmentations(dataset: Any, key: str) -> None:
    if not hasattr(dataset, "augmentations"):
        raise ConfigError(
            key, f"{type(dataset).__name__} has no attribute augmentations",
            remedy="Let its __init__ take augmentations=None and keep it as self.augmentations",
        )  # fmt: skip


def _check_minimum(name: str, value: int, low: int) -> None:
    if value < low:
        raise ConfigError(
            f"data.init_args.{name}", f"must be at least {low}", got=value,
            remedy=f"Write a whole number from {low} on",
        )  # fmt: skip


def _check_stages(given: Mapping[str, Any], key: str, known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{key}.{name}", "unknown stage", remedy=f"The stages are {', '.join(known)}",
                name=name, options=known,
            )  # fmt: skip


def _world(trainer: L.Trainer | None) -> tuple[int, int]:
    return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
