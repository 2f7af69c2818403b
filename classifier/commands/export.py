"""--export: a checkpoint as a file for other programs, which answers as the checkpoint does."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from classifier.checkpoints import CONFIG_KEY
from classifier.commands.calibrate import settle_calibration
from classifier.commands.job import Job
from classifier.commands.weights import restore
from classifier.data.datamodule import AUGMENTATIONS, ImageDataModule
from classifier.data.deterministic import preprocessing_of
from classifier.errors import ConfigError
from classifier.evaluation.card.facts import CardFacts
from classifier.export.images import FLAG, VerificationImage, find_images
from classifier.export.onnx import check_opset
from classifier.export.order import Order
from classifier.export.record import write_record
from classifier.export.verification import answers_of_checkpoint, verify
from classifier.files import content_of, filling_folder, is_temporary
from classifier.formats import FILES
from classifier.inference.description import UINT8, Description
from classifier.model.classifier import ImageClassifier
from classifier.model.lora import merge_adapters
from classifier.runs import RUNS, Result, Run, slug
from classifier.signals import end_at_once, handling_signals
from classifier.terminal import show

log = logging.getLogger(__name__)

# Format -> what writes it and runs it, besides torch.
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "huggingface": ("transformers", "safetensors"),
    "safetensors": ("safetensors",),
}
_OUTPUT = "--output"
_SPARE_BYTES = 20_000_000  # of graphs and texts beside the weights
_USAGE = """\
from transformers import pipeline

classify = pipeline("image-classification", "FOLDER_OF_THIS_FILE")
print(classify("photo.jpg"))"""


def export_model(job: Job) -> Result:
    """Export a checkpoint, in a run folder of its own or to --output.

    Args:
        job: Of the mode export; it has a checkpoint.

    Raises:
        ConfigError: something is wrong with the configuration, the checkpoint or the output, or
            there are no images to verify the export on.
        RunError: the export failed, or answers otherwise than the checkpoint.
    """
    assert job.checkpoint is not None and job.command.export_format is not None
    _check_packages(job.command.export_format)
    check_opset(job.command.opset)
    _check_overrides(job)
    _check_output(job.command.output, job.experiment)
    model, data, _ = job.cli.build()
    _check_classes(model, data)
    restore(model, data, job.checkpoint)
    assert isinstance(model, ImageClassifier) and isinstance(data, ImageDataModule)
    _check_room(model, job.command.output)
    settle_calibration(job.cli.evaluation, model)
    if job.cli.evaluation.tta is not None:
        log.warning("evaluation.tta is left out: an exported file looks at an image once")
    description = describe(job, model, data)
    _check_format(model, description)
    with tempfile.TemporaryDirectory() as folder, handling_signals(end_at_once):
        images = find_images(data, job.command.paths, Path(folder))
        run = _open(job)
        return job.carry_out(run, None, lambda: _export(job, run, model, data, description, images))


def describe(job: Job, model: ImageClassifier, data: ImageDataModule) -> Description:
    """What the file is to carry.

    Args:
        job: Says which format, input and precision.
        model: With the weights and the calibration of its checkpoint.
        data: With its preprocessing.

    Raises:
        ConfigError: the evaluation transforms are more than an exported file can carry out.
    """
    command, found = job.command, model.calibration
    assert model.class_names is not None and model.task is not None
    preprocessing = model.preprocessing
    if data.resize_mode is not None:
        preprocessing = preprocessing.in_mode(data.resize_mode)
    return Description(
        format=str(command.export_format),
        class_names=list(model.class_names),
        task=model.task,
        preprocessing=preprocessing_of(
            data.augmentations.get("val"), preprocessing, f"{AUGMENTATIONS}.val"
        ),
        background=data.background,
        temperature=found.temperature,
        thresholds=model.thresholds or found.thresholds,
        positive=found.positive,
        input=command.input or UINT8,
        precision=command.precision or "fp32",
    )


def _export(
    job: Job,
    run: Run,
    model: ImageClassifier,
    data: ImageDataModule,
    description: Description,
    images: Sequence[VerificationImage],
) -> None:
    """Write, verify and record; whatever fails leaves nothing behind."""
    network, form = model.network, description.format
    assert network is not None and job.checkpoint is not None and job.checkpoint_file is not None
    reference = answers_of_checkpoint(model, data, images)
    if network.adapters is not None:
        merge_adapters(network)
    network.requires_grad_(False)
    order = Order(network, description, job.checkpoint, job.command.opset, _card(job, form))
    writer = import_module(f"classifier.export.{form}")
    target = run.folder if job.command.output is not None else run.folder / form
    log.info("writing %s", form)
    with filling_folder(target) as folder:
        written: Description = writer.write(order, folder)
        log.info("verifying it on %d images", len(images))
        verified = verify(folder, written, images, reference)
        record = write_record(folder, written, job.checkpoint_file, verified)
    run.result.precision = written.precision
    run.result.num_images = len(images)
    run.result.export = {
        "file": (target / FILES[form]).relative_to(run.folder).as_posix(),
        "format": form,
        "precision": written.precision,
        "opset": written.opset,
        "bytes": record["bytes"],
        "num_images": verified.num_images,
        "labels_equal": verified.labels_equal,
        "num_undecided": verified.num_undecided,
        "max_difference": verified.max_difference,
    }


def _card(job: Job, form: str) -> str:
    """A model card for a folder that goes to the Hub; other formats have none."""
    if form != "huggingface":
        return ""
    from classifier.evaluation.card.writing import make_card

    assert job.checkpoint is not None and job.checkpoint_file is not None
    name = job.checkpoint_file.name
    known = job.checkpoint_file.parent.parent / "environment.json"  # of the run that trained it
    environment = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
    config = job.checkpoint[CONFIG_KEY]
    return make_card(CardFacts(job.checkpoint, name, config, environment=environment, usage=_USAGE))


def _open(job: Job) -> Run:
    """The run folder; the folder of --output takes nothing but the export."""
    if job.command.output is None:
        return job.create_run()
    run = Run(Path(job.command.output), job.mode, job.started, writes=False)
    run.result.checkpoint = str(job.checkpoint_file)
    show(run.folder.as_posix())
    return run


# What is looked at before any work


def _check_packages(form: str) -> None:
    missing = [name for name in _PACKAGES.get(form, ()) if find_spec(name) is None]
    if missing:
        raise ConfigError(
            FLAG, f"{form} needs packages that are not installed: {', '.join(missing)}",
            remedy=f"pip install {' '.join(missing)}",
        )  # fmt: skip


def _check_format(model: ImageClassifier, description: Description) -> None:
    """Refuse a network, and a way to prepare images, that the format has no words for."""
    if description.format == "huggingface":
        from classifier.export.huggingface import check

        assert model.network is not None
        check(model.network, description)


def _check_overrides(job: Job) -> None:
    """Refuse options of a trainer, which an export has none of."""
    for key, value in job.command.overrides:
        if key.startswith("trainer."):
            instead = ", or write --precision fp16" if key == "trainer.precision" else ""
            raise ConfigError(
                f"--{key}", "has no effect beside --export", got=value,
                remedy=f"Leave it out{instead}",
            )  # fmt: skip


def _check_output(output: str | None, experiment: str) -> None:
    """Refuse a folder that cannot be written, or is in use."""
    folder = RUNS / slug(experiment) if output is None else Path(output)
    remedy = "Name a new folder" + (" by --output" if output is None else "")
    if output is not None:
        remedy += ", or leave it out for one below runs/"
        if os.path.lexists(folder) and not folder.is_dir():
            raise ConfigError(_OUTPUT, "is a file", got=output, remedy=remedy)
        inside = content_of(folder) if folder.is_dir() else []
        if inside and all(map(is_temporary, inside)):
            raise ConfigError(
                _OUTPUT, f"another export is being written there, to {inside[0]}", got=output,
                remedy=remedy,
            )  # fmt: skip
        if inside:
            raise ConfigError(_OUTPUT, "is there already, and not empty", got=output, remedy=remedy)
    existing = _existing(folder)
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=existing))
    except OSError as error:
        raise ConfigError(
            _OUTPUT, f"nothing can be written to {existing} ({error.strerror})", got=str(folder),
            remedy=remedy,
        ) from error  # fmt: skip


def _check_room(model: ImageClassifier, output: str | None) -> None:
    """Refuse to begin what would fill the disk."""
    existing = _existing(Path(output or RUNS))
    tensors = [*model.parameters(), *model.buffers()]
    needed = _SPARE_BYTES + 2 * 4 * sum(tensor.numel() for tensor in tensors)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            _OUTPUT, f"the disk of {existing} has room for {free / 1e6:,.0f} MB, and writing the "
            f"model takes {needed / 1e6:,.0f} MB", remedy="Free disk space, or name another folder",
        )  # fmt: skip


def _existing(path: Path) -> Path:
    """The nearest of a path and its parents that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _check_classes(model: nn.Module, data: Any) -> None:
    """Refuse what is the user's own, of which nobody knows how it prepares and answers."""
    if not isinstance(model, ImageClassifier):
        raise ConfigError(
            FLAG, "exports classifier.ImageClassifier only", got=type(model).__name__,
            remedy="Give a checkpoint of one",
        )  # fmt: skip
    if not isinstance(data, ImageDataModule):
        raise ConfigError(
            FLAG, "an exported file prepares images as classifier.ImageDataModule does, and the "
            "data is another module", got=type(data).__name__,
            remedy="Train with classifier.ImageDataModule",
        )  # fmt: skip
