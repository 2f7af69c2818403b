"""Thumbnails: of the worst errors, and of nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.evaluation.thumbnails import thumbnail, thumbnails
from tests.evaluation.making import make, make_several, names_of


@pytest.mark.parametrize(
    ("shape", "size"),
    [((400, 200), (64, 128)), ((100, 3000), (128, 4)), ((20, 30), (30, 20)), ((1, 5000), (128, 1))],
)
def test_thumbnail_keeps_the_proportions(shape: tuple[int, int], size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(np.zeros((*shape, 3), np.uint8)))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)


def test_thumbnail_is_upright_and_in_colour() -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:128] = (250, 10, 10)
    with Image.open(io.BytesIO(thumbnail(pixels))) as image:
        top, bottom = np.asarray(image)[10, 10], np.asarray(image)[120, 10]
    assert top[0] > 200 and top[2] < 60 and bottom.max() < 60


def test_thumbnails_are_the_errors_of_the_highest_loss() -> None:
    evaluation = make(names_of(4), 300)
    asked: list[int] = []

    def load(row: int) -> Any:
        asked.append(row)
        return None if len(asked) == 2 else np.zeros((20, 30, 3), np.uint8)

    made = thumbnails(evaluation, load, most=5)
    predictions, losses = evaluation.predictions, evaluation.losses
    wrong = [row for row in range(300) if predictions.targets[row] != predictions.predicted[row]]
    assert asked == sorted(wrong, key=lambda row: -losses[row])[:5]
    assert [one.path for one in made] == [predictions.paths[row] for row in asked]
    assert [one.jpeg is None for one in made] == [False, True, False, False, False]
    first, row = made[0], asked[0]
    assert first.truth == predictions.class_names[predictions.targets[row]]
    assert first.prediction == predictions.class_names[predictions.predicted[row]]
    assert first.score == predictions.probabilities[row].max()
    assert first.truth_score == pytest.approx(np.exp(-losses[row]))


def test_thumbnails_of_several_labels_name_them_all() -> None:
    evaluation = make_several(names_of(3), 200)
    made = thumbnails(evaluation, lambda row: None)
    assert len(made) == 24
    for one in made:
        row = evaluation.predictions.paths.index(one.path)
        has = [
            n for n, t in zip(names_of(3), evaluation.predictions.targets[row], strict=True) if t
        ]
        assert one.truth == (", ".join(has) or "none")
        assert one.truth != one.prediction and one.score is None
