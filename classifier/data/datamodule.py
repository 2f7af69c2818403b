"""ImageDataModule: data sets, splits, pipelines and loaders of all stages."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from torch.utils.data import DataLoader, Dataset

from classifier.data import folders, hub_datasets, tables, torchvision_datasets  # noqa: F401  (named without their module)
from classifier.data.augmentations import KeepingResize, TransformList, build_pipeline, preset
from classifier.data.cache import keep
from classifier.data.classes import RunClasses
from classifier.data.datasets import scanned
from classifier.data.decoding import WHITE, Colour
from classifier.data.features import EncodedStage, Encoder, FeatureCache
from classifier.data.loading import StageDataset, make_loader
from classifier.data.rules import (
    DATA,
    DATASETS,
    STAGES,
    Rules,
    check_augmentations,
    check_choice,
    check_minimum,
    check_stages,
)
from classifier.data.selection import Selection, class_counts
from classifier.data.workers import guessed_workers
from classifier.errors import ConfigError
from classifier.preprocessing import RESIZE_MODES, Preprocessing
from classifier.runs import RUNS

log = logging.getLogger(__name__)

AUGMENTATIONS = f"{DATA}.augmentations"
CACHE_DIR = RUNS / ".image_cache"


class ImageDataModule(L.LightningDataModule):
    """Images for training, validation, test and prediction.

    Args:
        dataset_classes: `train`, `val`, `test`, `predict`: each a data set (FolderImageDataset,
            CsvImageDataset, HuggingFaceDataset, TorchvisionDataset or your own class with an
            `augmentations` argument) or null. val: null holds out `val_fraction` of train.
        batch_size: Images per device and step, at least 1.
        num_workers: Processes that decode; 0 decodes in the training process. auto is measured
            before a long training; else at most 4, and a core is left to the training.
        create_dataset: Keep decoded images in an on-disk cache for later epochs and runs.
        val_fraction: Part of train that is held out when val is null, in [0, 1); stratified.
        augmentations: `train`, `val`: lists of Albumentations transforms, or the name of a preset
            (light, medium, strong, trivial_augment, rand_augment); null is the encoder's own
            preprocessing. test and predict use val's.
        seed: Of the split, the shuffling and the augmentations; null is the run's seed_everything.
        test_fraction: Part of train that is held out when test is null, in [0, 1), null for none.
        folds: Parts of a stratified cross-validation, at least 2; val is then one of them.
        fold: Which part is validated on, from 0 to folds - 1.
        group_pattern: Regular expression on an image's path; its first group, or all that it
            matches, names the group, and a group stays on one side of a split.
        group_duplicates: Keep exact copies of an image on one side of a split.
        class_names: All classes in the order of the logits; null takes those of train, sorted.
        on_bad_image: error stops at a file that is no image and names it; skip leaves such files
            out and lists them, after decoding every image once.
        sampler: balanced draws every class equally often; null shows every image once an epoch.
        max_samples: Train on at most so many images, as evenly over the classes as they allow.
        resize_mode: crop, squash or pad, in all stages; null is the encoder's own.
        background: Colour that shows through transparent images: red, green, blue, 0 to 255.
        cache_dir: Folder of the on-disk cache; null is runs/.image_cache.
        cache_features: Compute the frozen part of the encoder once for each image, where it comes
            out the same every epoch, and keep that in the cache.
        feature_views: How many augmented views of a training image a frozen encoder sees, which
            epochs go round, at least 1; null is a new one every epoch, so nothing to keep.
        cache_size: Shorter side, in pixels, of images that are kept for your own transforms; null
            is the encoder's resize.
        auto_batch_size: Before a training, find the largest batch_size, a power of two, that fits
            into memory, at most all training images; the run's config.yaml has it then.

    Raises:
        ConfigError: a value out of its range, an unknown stage, or data that cannot be used.
    """

    def __init__(
        self,
        dataset_classes: dict[str, Dataset | None],  # type: ignore[type-arg]  # jsonargparse's form
        batch_size: int = 32,
        num_workers: int | Literal["auto"] = "auto",
        create_dataset: bool = False,
        val_fraction: float | None = 0.2,
        augmentations: dict[str, TransformList | None] | None = None,
        seed: int | None = None,
        test_fraction: float | None = None,
        folds: int | None = None,
        fold: int = 0,
        group_pattern: str | None = None,
        group_duplicates: bool = True,
        class_names: list[str] | None = None,
        on_bad_image: str = "error",
        sampler: str | None = None,
        max_samples: int | None = None,
        resize_mode: str | None = None,
        background: tuple[int, int, int] = WHITE,
        cache_dir: str | None = None,
        cache_size: int | None = None,
        cache_features: bool = True,
        feature_views: int | None = None,
        auto_batch_size: bool = False,
    ) -> None:
        super().__init__()
        self.dataset_classes: dict[str, Any] = dict(dataset_classes)
        self.batch_size = batch_size
        self.auto_batch_size = auto_batch_size
        self.auto_workers = num_workers == "auto"
        self.num_workers = guessed_workers() if num_workers == "auto" else num_workers
        self.create_dataset = create_dataset
        self.augmentations = {
            stage: preset(transforms, f"{AUGMENTATIONS}.{stage}")
            if isinstance(transforms, str)
            else transforms
            for stage, transforms in (augmentations or {}).items()
        }
        self.seed = seed
        self.sampler = sampler
        self.resize_mode = resize_mode
        self.background = cast(Colour, tuple(background))
        self.cache_dir = Path(cache_dir) if cache_dir is not None else CACHE_DIR
        self.cache_size = cache_size
        self.cache_features = cache_features
        self.feature_views = feature_views
        # The frozen part of the model; set where its features are to be kept.
        self.encoder: Encoder | None = None
        self.preprocessing: Preprocessing | None = None
        self.rules = Rules(
            val_fraction or 0.0, test_fraction or 0.0, folds, fold, group_pattern, group_duplicates,
            class_names, on_bad_image, max_samples,
        )  # fmt: skip
        # Known from the data, or from a checkpoint, which sets them before `setup`.
        self.class_names: list[str] | None = None
        self.task: str | None = None
        self._stages: dict[str, StageDataset] = {}
        self._encoded: dict[str, EncodedStage | None] = {}
        self._check()

    def _check(self) -> None:
        self.rules.check()
        check_minimum("batch_size", self.batch_size, 1)
        check_minimum("num_workers", self.num_workers, 0, "auto, or ")
        check_minimum("cache_size", self.cache_size, 1)
        check_minimum("feature_views", self.feature_views, 1)
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ConfigError(
                f"{DATA}.background", "must be three numbers from 0 to 255",
                got=list(self.background), remedy="Write [255, 255, 255] for white",
            )  # fmt: skip
        check_choice("sampler", self.sampler, (None, "balanced"))
        check_choice("resize_mode", self.resize_mode, (None, *RESIZE_MODES))
        check_stages(self.dataset_classes, DATASETS, STAGES)
        for stage, name in (("val", "folds"), ("test", "test_fraction")):
            if self.dataset_classes.get(stage) is not None and getattr(self.rules, name):
                raise ConfigError(
                    f"{DATA}.{name}", f"has no effect beside {DATASETS}.{stage}",
                    got=getattr(self.rules, name), remedy="Leave one of the two out",
                )  # fmt: skip
        check_stages(self.augmentations, AUGMENTATIONS, ("train", "val"))

    # Classes

    def setup(self, stage: str) -> None:
        """Scan the data of a stage and decide the class names, once.

        Args:
            stage: fit, validate, test or predict.

        Raises:
            ConfigError: no data for the stage, too few classes, or classes that train lacks.
        """
        if stage == "predict":
            scanned(self.dataset_classes, "predict")
            return
        selection, has_val = self.selection, self.dataset_classes.get("val") is not None
        self.task, self.class_names = selection.classes.task, selection.classes.names
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if selection.is_held_out(name):
                scanned(self.dataset_classes, "train")
            elif name != "val" or has_val:
                selection.classes.targets(name)
        if stage == "fit" and has_val:
            selection.tell_leaks()

    @cached_property
    def selection(self) -> Selection:
        """Chooses the images of each stage; made at `setup`, when task and classes are settled."""
        datasets, rules = self.dataset_classes, self.rules
        classes = RunClasses(datasets, self.class_names, rules.class_names, self.task)
        return Selection(datasets, rules, classes, self._seed(), max(1, self.num_workers))

    def class_counts(self) -> list[int]:
        """Training images of each class."""
        assert self.class_names is not None
        return class_counts(self.selection.members("train").targets, len(self.class_names))

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
        names = ["train"]
        names += ["val"] if self.has_validation() else []
        names += ["test"] if self.selection.is_held_out("test") else []
        parts = {name: self.stage(name) for name in names}
        targets = [target for part in parts.values() for target in part.targets]
        counts = class_counts(targets, len(self.class_names))
        classes = [f"{name} {n}" for name, n in zip(self.class_names, counts, strict=True)]
        shown = classes if len(classes) <= 12 else [*classes[:10], f"... {classes[-1]}"]
        split = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        return f"{len(targets)} images ({split}) in {len(classes)} classes: {', '.join(shown)}"

    def describe(self, stage: str, position: int) -> str:
        """The path of one image of a stage, for messages."""
        return self.stage(stage).path(position)

    def has_validation(self) -> bool:
        """Whether there are images to validate on."""
        return self.dataset_classes.get("val") is not None or self.rules.holds_out("val")

    def has_test(self) -> bool:
        """Whether there are images to test on."""
        return self.dataset_classes.get("test") is not None or self.rules.holds_out("test")

    def _make_stage(self, name: str) -> StageDataset:
        members = self.selection.members(name)
        check_augmentations(members.source, f"{DATASETS}.{name}")
        which = "train" if name == "train" else "val"
        transforms = self.augmentations.get(which)
        pipeline, resized = build_pipeline(
            transforms, self._preprocessing(), f"{AUGMENTATIONS}.{which}"
        )
        if resized and name in ("train", "val"):
            log.info(
                "%s.%s leaves images at different sizes: the encoder's resize follows it",
                AUGMENTATIONS, which,
            )  # fmt: skip
        stage = StageDataset(
            members, pipeline, self._seed(), background=self.background,
            num_classes=len(self.class_names or ()) if self.task == "multilabel" else 0,
            tolerant=name == "predict", every_pixel=name != "train",
        )  # fmt: skip
        if self.create_dataset and name != "predict":
            self._keep(stage, transforms, name)
        return stage

    def _keep(self, stage: StageDataset, transforms: TransformList | None, name: str) -> None:
        """Let a stage read its decoded images from the on-disk cache."""
        preprocessing, key = self._preprocessing(), f"{DATASETS}.{name}"
        if name == "train":
            resize = KeepingResize(transforms, preprocessing, self.cache_size)
        else:
            found = KeepingResize.of_evaluation(transforms, preprocessing)
            if found is None:
                log.info(
                    "%s: decoded anew each time, as %s.val begins with no resize",
                    key,
                    AUGMENTATIONS,
                )
                return
            resize = found
        keep(stage, resize, self.cache_dir, self.num_workers, key)

    def _features(self, name: str) -> EncodedStage | None:
        """A stage of training as features, where an encoder is to run once."""
        if self.encoder is None or name not in ("train", "val"):
            return None
        if name == "val" and self.stage(name).pipeline.is_random:
            return None  # its images are those of a validation on its own
        if name not in self._encoded:
            cache = FeatureCache(
                self.cache_dir, self.encoder, self.feature_views or 1,
                self.batch_size, self.num_workers,
            )  # fmt: skip
            self._encoded[name] = cache.encoded(self.stage(name))
        return self._encoded[name]

    def _preprocessing(self) -> Preprocessing:
        found = self.preprocessing
        if found is None:
            model = getattr(self.trainer, "lightning_module", None)
            found = cast(Preprocessing, getattr(model, "preprocessing", None) or Preprocessing())
        return found if self.resize_mode is None else found.in_mode(self.resize_mode)

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
        features, trainer = self._features(name), self.trainer
        loader = make_loader(
            self.stage(name) if features is None else features,
            batch_size=self.batch_size, num_workers=self.num_workers, seed=self._seed(),
            world=(1, 0) if trainer is None else (trainer.world_size, trainer.global_rank),
            shuffle=shuffle, balanced=self.sampler == "balanced",
        )  # fmt: skip
        if shuffle and trainer is not None:
            progress = trainer.fit_loop.epoch_loop.batch_progress
            loader.num_batches_done = lambda: progress.current.ready
        return loader
