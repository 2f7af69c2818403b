"""The worst errors of an evaluation as small pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.results import Evaluation

MOST = 24
SIDE = 128
_QUALITY = 82


@dataclass(frozen=True)
class Thumbnail:
    """One image that was not taken for what it is.

    Args:
        path: As predictions.csv has it.
        truth: Name of its class; of several labels all that it has.
        prediction: What it was taken for.
        score: Probability of the prediction; None with several labels, which have one each.
        truth_score: Probability of the truth; None with several labels.
        jpeg: A small JPEG file; None where the image is gone.
    """

    path: str
    truth: str
    prediction: str
    score: float | None
    truth_score: float | None
    jpeg: bytes | None


def thumbnails(
    evaluation: Evaluation,
    load: Callable[[int], NDArray[np.uint8] | None],
    most: int = MOST,
    side: int = SIDE,
) -> list[Thumbnail]:
    """The errors with the highest loss: the model held their truth least likely.

    Args:
        evaluation: Of one stage.
        load: Row of the predictions -> its image (H, W, 3), upright; None where there is none any
            more. Called for the images that are shown and no others.
        most: How many at most.
        side: Of the longer edge, in pixels.
    """
    predictions = evaluation.predictions
    names = predictions.class_names
    wrong = np.flatnonzero(~predictions.correct)
    worst = wrong[np.argsort(-evaluation.losses[wrong], kind="stable")][:most]
    made = []
    for row in worst.tolist():
        pixels = load(row)
        truth, said = predictions.targets[row], predictions.predicted[row]
        several = predictions.several
        made.append(
            Thumbnail(
                path=predictions.paths[row],
                truth=_all_of(truth, names) if several else names[truth],
                prediction=_all_of(said, names) if several else names[said],
                score=None if several else float(predictions.probabilities[row, said]),
                truth_score=None if several else float(predictions.probabilities[row, truth]),
                jpeg=None if pixels is None else thumbnail(pixels, side),
            )
        )
    return made


def thumbnail(pixels: NDArray[np.uint8], side: int = SIDE) -> bytes:
    """A small JPEG file that keeps the proportions of the image; one that is small stays as it is.

    Args:
        pixels: (H, W, 3), RGB.
        side: The longer edge at most, in pixels.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _all_of(has: NDArray[np.bool_], names: tuple[str, ...]) -> str:
    found = [names[place] for place in np.flatnonzero(has)]
    return ", ".join(found) or "none"
