"""Whether an exported file answers as its checkpoint does, on real images."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.data.datamodule import ImageDataModule
from classifier.data.folders import ImagePathsDataset
from classifier.data.loading import collate
from classifier.errors import RunError
from classifier.export.answering import BATCH_SIZES, Answered, answers_of_file
from classifier.export.images import FLAG, VerificationImage
from classifier.formats import FILES
from classifier.inference.description import Description
from classifier.masking import shareable
from classifier.model.classifier import ImageClassifier

log = logging.getLogger(__name__)

# Precision -> below it two probabilities count as the same.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}
_EXACT = "fp32"  # in which labels are equal without exception


@dataclass(frozen=True)
class Difference:
    """How far two answers to the same images are apart.

    Args:
        max_difference: Of two probabilities, over all images, classes and batch sizes.
        mean_difference: The mean.
        num_undecided: Images that have another label because two were as good as equal; these
            differ in nothing but that.
        num_wrong: Images that have another label without such a reason.
        worst: Position of the image that is told of.
    """

    max_difference: float
    mean_difference: float
    num_undecided: int
    num_wrong: int
    worst: int


@dataclass(frozen=True)
class Verification:
    """What a verification came to.

    Args:
        num_images: Images that went through both.
        images: Their names.
        batch_sizes: In which they went.
        labels_equal: Whether all labels are the same.
        num_undecided: Images that have another label, between two that were as good as equal.
        max_difference: The largest of two probabilities of one class for one image.
        mean_difference: Over all images and classes.
        tolerance: Which the largest is below.
        runtime: The package that ran the file.
        runtime_version: Its version.
        seconds_per_image: From an image's file to its probabilities, of the checkpoint and the
            export, in the largest batches.
        pipeline_difference: The largest of transformers.pipeline; None in other formats.
    """

    num_images: int
    images: list[str]
    batch_sizes: list[int]
    labels_equal: bool
    num_undecided: int
    max_difference: float
    mean_difference: float
    tolerance: float
    runtime: str
    runtime_version: str
    seconds_per_image: dict[str, float]
    pipeline_difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def answers_of_checkpoint(
    model: ImageClassifier, data: ImageDataModule, images: Sequence[VerificationImage]
) -> Answered:
    """What --predict says in float32 on the CPU: by its own data pipeline and its own step.

    Args:
        model: With the weights of its checkpoint; nothing of it was changed for the export.
        data: As the checkpoint or the user has it.
        images: At least one.

    Raises:
        RunError: a probability is no number.
    """
    model.cpu().float().eval()
    started = time.perf_counter()
    paths = [str(image.file) for image in images]
    data.dataset_classes["predict"] = ImagePathsDataset(paths, flag=FLAG)
    stage = data.stage("predict")
    place = {stage.file(position): position for position in range(len(stage))}
    items = [stage[place[path]] for path in paths]
    decoding = time.perf_counter() - started
    probabilities: dict[int, NDArray[np.float64]] = {}
    labels: dict[int, list[list[str]]] = {}
    names = model.class_names or []
    for size in BATCH_SIZES:
        started = time.perf_counter()
        batches = [collate(items[at : at + size]) for at in range(0, len(items), size)]
        with torch.inference_mode():
            found = torch.cat([model.predict_step(batch, 0) for batch in batches])
        computing = time.perf_counter() - started
        if not found.isfinite().all():
            raise RunError(
                "the checkpoint's own probabilities are no numbers: the model has diverged. "
                "Export another checkpoint of the run"
            )
        decided = model.decisions(found).tolist()
        probabilities[size] = found.double().numpy()
        labels[size] = [[names[i] for i, has in enumerate(row) if has] for row in decided]
    seconds = (decoding + computing) / len(items)
    return Answered(probabilities, labels, seconds, "torch", torch.__version__)


def verify(
    folder: Path,
    description: Description,
    images: Sequence[VerificationImage],
    reference: Answered,
) -> Verification:
    """Classify the images by the file on disk, and compare.

    Args:
        folder: In which the file lies.
        description: Of the file.
        images: As the reference has seen them.
        reference: Of the checkpoint.

    Raises:
        RunError: the file cannot be used, or answers otherwise; names the image that is worst.
    """
    files = [image.file for image in images]
    found = answers_of_file(folder / FILES[description.format], files)
    names = [image.name for image in images]
    tolerance = TOLERANCES[description.precision]
    difference = compare(reference, found, description, tolerance)
    _check(difference, reference, found, names, description)
    by_pipeline = None
    if description.format == "huggingface":
        by_pipeline = _check_pipeline(folder, description, images, reference)
    return Verification(
        num_images=len(images),
        images=shareable(names),
        batch_sizes=list(BATCH_SIZES),
        labels_equal=difference.num_undecided == 0,
        num_undecided=difference.num_undecided,
        max_difference=max(difference.max_difference, by_pipeline or 0.0),
        mean_difference=difference.mean_difference,
        tolerance=tolerance,
        runtime=found.runtime,
        runtime_version=found.version,
        seconds_per_image={"checkpoint": reference.seconds, "export": found.seconds},
        pipeline_difference=by_pipeline,
    )


def compare(
    reference: Answered, found: Answered, description: Description, tolerance: float
) -> Difference:
    """How far the answers are apart; what is no number is infinitely far.

    Args:
        reference: Of the checkpoint.
        found: Of the file, to the same images.
        description: Of the file: by what it decides.
        tolerance: In a lower precision a label may be another where that much more or less of a
            probability makes it another.
    """
    apart, wrong, open_ = [], [], []
    for size in BATCH_SIZES:
        values = reference.probabilities[size]
        apart.append(_apart(values, found.probabilities[size]))
        other = [
            sorted(one) != sorted(two)
            for one, two in zip(reference.labels[size], found.labels[size], strict=True)
        ]
        narrow = margins(values, description) < tolerance
        excused = narrow & (description.precision != _EXACT)
        wrong.append(np.array(other) & ~excused)
        open_.append(np.array(other) & excused)
    distance = np.stack(apart)
    mislabelled = np.any(wrong, axis=0)
    of_image = distance.max(axis=(0, 2))
    worst = np.where(mislabelled, of_image, -1) if mislabelled.any() else of_image
    return Difference(
        float(distance.max()), float(distance.mean()), int(np.any(open_, axis=0).sum()),
        int(mislabelled.sum()), int(worst.argmax()),
    )  # fmt: skip


def margins(probabilities: NDArray[np.float64], description: Description) -> NDArray[np.float64]:
    """By how much a probability of each image would have to change for another label, (N,).

    Args:
        probabilities: (N, num_classes).
        description: By what it is decided.
    """
    limits = description.thresholds
    if description.several:
        apart = probabilities - np.array(limits)
        return np.asarray(np.abs(apart).min(axis=1))
    if description.positive is not None and limits:
        return np.asarray(np.abs(probabilities[:, description.positive] - limits[0]))
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    best = np.sort(probabilities, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def _apart(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    if one.shape != two.shape:
        raise RunError(
            f"the exported file gives {two.shape[1]} probabilities for {one.shape[1]} classes"
        )
    return np.where(np.isfinite(two), np.abs(one - two), np.inf)


def _check(
    difference: Difference,
    reference: Answered,
    found: Answered,
    names: Sequence[str],
    description: Description,
) -> None:
    """Refuse a file that answers otherwise.

    Raises:
        RunError: names the worst image.
    """
    tolerance = TOLERANCES[description.precision]
    if difference.max_difference < tolerance and not difference.num_wrong:
        return
    size = _batch_size_of(difference.worst, reference.labels, found.labels)
    told = [
        ", ".join(answered.labels[size][difference.worst]) or "no label"
        for answered in (found, reference)
    ]
    advice = "Nothing was kept; try another format"
    if description.precision != _EXACT:
        advice += f", or --precision {_EXACT}"
    raise RunError(
        f"the exported file does not answer as the checkpoint does: {names[difference.worst]} is "
        f"{told[0]}, by the checkpoint {told[1]}; probabilities differ by up to "
        f"{difference.max_difference:.2g} (allowed: {tolerance:g}), labels of "
        f"{difference.num_wrong} of {len(names)} images. {advice}"
    )


def _batch_size_of(
    position: int,
    expected: Mapping[int, Sequence[Sequence[str]]],
    found: Mapping[int, Sequence[Sequence[str]]],
) -> int:
    """The batch size in which an image has got another label, if in any."""
    differing = (
        size for size in BATCH_SIZES
        if sorted(expected[size][position]) != sorted(found[size][position])
    )  # fmt: skip
    return next(differing, BATCH_SIZES[-1])


def _check_pipeline(
    folder: Path,
    description: Description,
    images: Sequence[VerificationImage],
    reference: Answered,
) -> float | None:
    """The largest difference of what transformers.pipeline says; None where no image is plain.

    It reads files by itself, so that only plain ones tell of the export: it puts transparent
    pixels on another background, and clips those of 16 bits.

    Raises:
        RunError: it says something else.
    """
    from classifier.data.checking import Entry, Files, inspect
    from classifier.export.pipeline_check import pipeline_probabilities

    source = Files([image.file for image in images])
    entries = [Entry("predict", None, source, place) for place in range(len(images))]
    facts = inspect(entries, description.class_names).files
    plain = [place for place, fact in enumerate(facts) if fact is not None and not fact.kind]
    if not plain:
        log.warning("no image is plain RGB: transformers.pipeline itself is not verified")
        return None
    files = [str(images[place].file) for place in plain]
    found = pipeline_probabilities(folder, files, description.class_names)
    apart = _apart(reference.probabilities[BATCH_SIZES[0]][plain], np.asarray(found, float))
    worst, most = int(apart.max(axis=1).argmax()), float(apart.max())
    if most >= TOLERANCES[description.precision]:
        raise RunError(
            "transformers.pipeline does not answer as the checkpoint does: for "
            f"{images[plain[worst]].name} probabilities differ by {most:.2g} (allowed: "
            f"{TOLERANCES[description.precision]:g}). Nothing was kept; try another format"
        )
    return most
