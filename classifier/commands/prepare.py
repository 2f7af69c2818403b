"""What is made sure of before the first batch: objects that fit each other, data, image size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from torch import Tensor

from classifier.callbacks.finders import BATCH_SIZE, FINDERS, keep_batch_size, keep_rates
from classifier.callbacks.metrics import MetricsLogger, num_classes_of, task_of
from classifier.checkpoints import CONFIG_KEY, check_same_batches, check_unfinished
from classifier.commands.batch_size import check_auto_batch_size
from classifier.commands.calibrate import check_calibration
from classifier.commands.job import Job
from classifier.commands.monitors import check_monitors, default_monitor
from classifier.commands.out_of_memory import AUTO_BATCH_SIZE
from classifier.commands.trainer import as_list, build_trainer, check_trains
from classifier.commands.weights import check_same_data, load_weights
from classifier.data.datamodule import ImageDataModule
from classifier.errors import ConfigError, RunError, reason_of
from classifier.model.classifier import ImageClassifier
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.model.options import MODEL_NAME, PRETRAINED
from classifier.model.per_class import shown_weights
from classifier.model.tasks import class_facts
from classifier.runs import trial_folder

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """The objects of a training, which fit each other.

    Args:
        model: Built.
        data: Set up.
        trainer: With this program's defaults.
        arguments: Of lightning.Trainer, as configured.
        callbacks: The configuration's.
        monitor: Metric and mode by which the best checkpoint is chosen by default.
        missing: Of a check: what is wrong with the pretrained weights.
    """

    model: Any
    data: Any
    trainer: Any
    arguments: dict[str, Any]
    callbacks: list[Callback]
    monitor: tuple[str, str] | None = None
    missing: ConfigError | None = None


def prepare(job: Job, **overrides: Any) -> Prepared:
    """Build what a configuration names, for a command that trains or tries to.

    Args:
        job: A training, a check or a search for a learning rate.
        overrides: Of the trainer's arguments.

    Raises:
        ConfigError: anything that would stop the training later.
    """
    model, data, arguments = job.cli.build()
    _take_no_weights_twice(job, model)
    arguments |= overrides
    if job.mode != "lr_find":  # which has steps of its own
        check_trains(arguments)
    if job.mode != "train" or not job.goes_on:  # of a run that broke off its report is missing
        check_unfinished(job.resumed, arguments.get("max_epochs"))
    if job.resumed is not None:
        _keep_found(job, model, data, arguments, job.resumed)
    callbacks: list[Callback] = as_list(arguments.get("callbacks"))
    check_monitors(callbacks, model, data)
    monitor = default_monitor(callbacks, data)
    mode = "lr_find" if job.mode == "lr_find" else "train"
    trainer = build_trainer(arguments, mode, monitor)
    prepared = Prepared(model, data, trainer, arguments, callbacks, monitor)
    check_auto_batch_size(data, prepared.trainer)
    _prepare_data_and_model(job, prepared)
    check_metrics(callbacks, model)
    if job.mode != "lr_find":
        check_calibration(job.cli.evaluation, data, model, arguments)
        names = getattr(model, "class_names", None)
        job.cli.evaluation.check_positive_class(task_of(model), names)
    if job.only_weights and job.checkpoint is not None:
        load_weights(model, job.checkpoint)
    return prepared


def _take_no_weights_twice(job: Job, model: Any) -> None:
    if not job.only_weights:
        return
    if job.checkpoint is None:
        raise ConfigError(
            "only_weights_load", "there is no checkpoint to take the weights from", got=True,
            remedy="Add ckpt_path, or write false",
        )  # fmt: skip
    model.pretrained = False  # the checkpoint has the weights


def _keep_found(
    job: Job, model: Any, data: Any, arguments: dict[str, Any], resumed: Mapping[str, Any]
) -> None:
    """A resumed training has its learning rate and its batch size already.

    Lightning's finders end by restoring a checkpoint of their own: the place where the resumed
    training stood would be lost.
    """
    listed = as_list(arguments.get("callbacks"))
    if any(isinstance(callback, LearningRateFinder) for callback in listed):
        keep_rates(model, resumed)
    by_callback = any(isinstance(callback, BatchSizeFinder) for callback in listed)
    if by_callback or getattr(data, "auto_batch_size", False):
        keep_batch_size(data, resumed[CONFIG_KEY])
        job.cli.set_value(BATCH_SIZE, data.batch_size)
    if getattr(data, "auto_batch_size", False):
        data.auto_batch_size = False
        job.cli.set_value(AUTO_BATCH_SIZE, False)
    arguments["callbacks"] = [item for item in listed if not isinstance(item, FINDERS)]


def looks_at_images(job: Job, data: Any) -> bool:
    """Whether this is a check of all images; a sweep's own check before trial 0 is quick."""
    in_check = job.mode == "check" and trial_folder() is None
    return in_check and isinstance(data, ImageDataModule)


def _prepare_data_and_model(job: Job, prepared: Prepared) -> None:
    model, data, trainer = prepared.model, prepared.data, prepared.trainer
    if looks_at_images(job, data):
        prepared.missing = prepare_check(model, data, job.resumed, from_weights=job.only_weights)
    else:
        num_ranks = trainer.num_devices * trainer.num_nodes
        prepare_training(
            model, data, job.resumed, from_weights=job.only_weights, num_ranks=num_ranks
        )


def prepare_training(
    model: L.LightningModule,
    data: Any,
    checkpoint: Mapping[str, Any] | None = None,
    *,
    from_weights: bool = False,
    num_ranks: int = 1,
) -> None:
    """Scan the data, build the network and send one image through it.

    Args:
        model: As the configuration made it.
        data: As the configuration made it.
        checkpoint: What the training resumes; its classes must be the data's.
        from_weights: The weights of a checkpoint come afterwards.
        num_ranks: Processes that train together.

    Raises:
        ConfigError: anything that would stop the training later.
    """
    if isinstance(model, ImageClassifier) and model.task and hasattr(data, "task"):
        data.task = model.task
    data.setup("fit")
    if not isinstance(model, ImageClassifier):
        return
    facts = class_facts(data)
    if checkpoint is None:
        if (model.freeze_encoder or model.lora) and not model.pretrained and not from_weights:
            log.warning(
                "%s with pretrained: false freezes layers at random weights",
                "lora" if model.lora else f"freeze_encoder: {model.freeze_encoder}",
            )
        model.build(**facts, resize_mode=getattr(data, "resize_mode", None))
    else:
        check_same_data(checkpoint[CHECKPOINT_KEY], facts)
        check_same_batches(checkpoint, getattr(data, "batch_size", None), num_ranks)
        model.rebuild(dict(checkpoint))
        model.weigh_classes(facts["class_counts"])
    if model.loss_weights is not None:
        log.info("class weights: %s", shown_weights(model.loss_weights, model.class_names or []))
    if hasattr(data, "preprocessing"):
        data.preprocessing = model.preprocessing
    if hasattr(data, "summary"):
        log.info("%s", data.summary())
    for name in ("train", "val"):
        if hasattr(data, "stage") and (name == "train" or data.has_validation()):
            _check_image(model, data.stage(name), name)


def prepare_check(
    model: L.LightningModule, data: Any, checkpoint: Mapping[str, Any] | None, *, from_weights: bool
) -> ConfigError | None:
    """The same before a look at all images, which needs no weights and no whole image.

    Args:
        model: As the configuration made it.
        data: As the configuration made it.
        checkpoint: What the training would resume.
        from_weights: The weights of a checkpoint would come afterwards.

    Returns:
        What is wrong with the weights, to be told after the images.
    """
    missing: ConfigError | None = None
    try:
        try:
            prepare_training(model, data, checkpoint, from_weights=from_weights)
        except ConfigError as error:
            if error.key != PRETRAINED:
                raise
            missing = error
            model.pretrained = False  # type: ignore[assignment]
            prepare_training(model, data, checkpoint, from_weights=from_weights)
    except RunError as error:
        if not isinstance(error.__cause__, OSError):
            raise  # else it is a bad image, one of those that the check lists
    return missing


def check_metrics(listed: Sequence[Any], model: L.LightningModule) -> None:
    """Refuse metrics that cannot be logged in the model's task or of its number of classes.

    Args:
        listed: The callbacks of the configuration.
        model: Prepared: its task and classes are known.

    Raises:
        ConfigError: names the metric.
    """
    for index, callback in enumerate(listed):
        if isinstance(callback, MetricsLogger):
            try:
                callback.check(task_of(model), num_classes_of(model))
            except ConfigError as error:
                key = f"trainer.callbacks.{index}.init_args.{error.key}"
                raise error.at(key) from error


def _check_image(model: ImageClassifier, dataset: Any, name: str) -> None:
    image = dataset[0][0]
    key = f"data.init_args.augmentations.{name}"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(image.unsqueeze(0))
    except (RuntimeError, ValueError, AssertionError) as error:
        height, width = model.preprocessing.size
        reason = reason_of(error)
        raise ConfigError(
            key, f"gives images of {image.shape[1]} x {image.shape[2]} pixels, which "
            f"{model.model_name} refuses ({reason})",
            remedy=f"Resize to {height} x {width}, write null, or give "
            f"model.init_args.image_size: {_written(image.shape[1:])} if the encoder can take it",
        ) from error  # fmt: skip
    finally:
        model.train(was_training)
    sides = tuple(image.shape[1:])
    if model.image_size is not None and sides != model.preprocessing.size:
        log.warning(
            "%s gives images of %d x %d pixels, and model.init_args.image_size is %s: null, or "
            "classifier.RandomResizedCrop without a size, follows it",
            key, *sides, model.image_size,
        )  # fmt: skip
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, len(model.class_names or [])):
        raise ConfigError(
            MODEL_NAME, f"{model.model_name} gives logits of shape {shape} for one "
            f"image and {len(model.class_names or [])} classes",
            remedy="Let its forward return (N, num_classes)",
        )  # fmt: skip


def _written(size: Sequence[int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)
