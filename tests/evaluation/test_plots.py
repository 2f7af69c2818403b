"""Pictures: of any evaluation that there may be, deterministic, and in the colours of the page."""

from __future__ import annotations

import dataclasses
import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from classifier.evaluation.class_plots import clustered
from classifier.evaluation.picture import INK, label, plain, short
from classifier.evaluation.plots import draw
from classifier.evaluation.results import Curves, Evaluation
from tests.evaluation.making import HOSTILE, history, make, make_several, names_of

MADE: dict[str, Any] = {
    "two": lambda: make(names_of(2), 60),
    "four": lambda: make(names_of(4), 60, absent=[1]),
    "many": lambda: make(names_of(200), 300),
    "hostile": lambda: make(HOSTILE, 60),
    "several": lambda: make_several(names_of(12), 60),
    "several hostile": lambda: make_several(HOSTILE, 60),
}


@pytest.mark.parametrize("kind", MADE)
def test_pictures_open_and_are_elements_of_a_page(kind: str) -> None:
    evaluation = MADE[kind]()
    pictures = draw(evaluation, history(2))
    curves = {"roc", "precision_recall"} if kind in ("two", "several", "several hostile") else set()
    assert set(pictures) == {
        "learning_loss", "learning_accuracy", "confusion", "per_class", "reliability", "scores",
        "coverage", *curves, *({"f1_scores"} if kind == "many" else ()),
    }  # fmt: skip
    ids: list[str] = []
    for name, picture in pictures.items():
        with Image.open(io.BytesIO(picture.png())) as image:
            image.verify()
            assert min(image.size) > 100
        root = ElementTree.fromstring(picture.svg(name))
        assert root.tag == "svg" and root.attrib["aria-label"] == picture.caption
        found = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert all(one.startswith(f"{name}-") for one in found)
        for element in root.iter():
            for attribute in ("href", "clip-path"):
                target = element.attrib.get(attribute, "")
                if "#" in target:
                    assert target.partition("#")[2].rstrip(")") in found
        ids += found
    assert len(ids) == len(set(ids))


def test_svg_takes_ink_and_colours_from_the_page_and_loads_nothing() -> None:
    for name, picture in draw(make(names_of(4), 60), history(2)).items():
        text = picture.svg(name)
        assert "currentColor" in text and INK not in text
        assert "http" not in text and "<style" not in text and "metadata" not in text
        assert "#0072b2" not in text


def test_pictures_are_the_same_when_drawn_again() -> None:
    first, second = (draw(make(names_of(4), 60), []) for _ in range(2))
    for name in ("confusion", "scores"):
        assert first[name].svg(name) == second[name].svg(name)
        assert first[name].png() == second[name].png()


def test_pictures_leave_the_callers_own_alone() -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    picture = draw(make(names_of(2), 60), history(2))["roc"]
    assert picture.svg("roc") and picture.png()
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_text_of_the_svg_is_what_the_class_is_called() -> None:
    root = ElementTree.fromstring(draw(make(HOSTILE, 60), [])["confusion"].svg("confusion"))
    said = {element.text for element in root.iter("text")}
    assert {short(name, 18) for name in HOSTILE} <= said
    assert "$\\frac$ $x" in said


def test_nothing_is_drawn_of_what_there_is_not() -> None:
    whole = make(names_of(4), 60)
    empty = dataclasses.replace(
        whole,
        predictions=dataclasses.replace(
            whole.predictions, paths=[], probabilities=np.zeros((0, 4)),
            targets=np.zeros(0, int), predicted=np.zeros(0, int),
        ),
        curves=Curves({}, {}, {}, {}), confusion=np.zeros((4, 4), int),
    )  # fmt: skip
    assert draw(empty, []) == {}
    without = dataclasses.replace(whole, curves=Curves({}, {}, {}, {}))
    assert set(draw(without, [])) == {"confusion", "per_class", "scores"}


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([], set()),
        ([{"epoch": "0", "step": "3", "train_loss": "nan", "validation_loss": "inf"}], set()),
        ([{"epoch": "0", "step": "3", "train_loss": "", "validation_loss": "0.5"}], {"learning_loss"}),
        ([{"epoch": "", "step": "3", "train_loss": "0.5"}], set()),
        ([{"epoch": "1", "step": "3", "validation_auroc": "0.5"}], {"learning_auroc"}),
        ([{"epoch": "1", "step": "3", "train_auroc": "0.5"}], set()),
    ],
)  # fmt: skip
def test_learning_curves_are_of_finite_values(rows: list[dict[str, str]], drawn: set[str]) -> None:
    pictures = draw(make(names_of(4), 60), rows)
    assert {name for name in pictures if name.startswith("learning")} == drawn


def test_best_epoch_is_the_lowest_loss_and_the_highest_metric() -> None:
    rows = [
        {"epoch": str(epoch), "validation_loss": str(loss), "validation_accuracy": str(accuracy)}
        for epoch, (loss, accuracy) in enumerate([(0.9, 0.3), (0.4, 0.6), (0.5, 0.7)])
    ]
    pictures = draw(make(names_of(4), 60), rows)
    assert "best in epoch 2, with 0.4 " in pictures["learning_loss"].caption
    assert "best in epoch 3, with 0.7 " in pictures["learning_accuracy"].caption


def test_confused_classes_become_neighbours() -> None:
    pairs = np.diag([50] * 8)
    for one, other in ((0, 5), (1, 6), (2, 7), (3, 4)):
        pairs[one, other] = pairs[other, one] = 20
    order = clustered(pairs).tolist()
    assert sorted(order) == list(range(8))
    for one, other in ((0, 5), (1, 6), (2, 7), (3, 4)):
        assert abs(order.index(one) - order.index(other)) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_order_stays_when_nothing_is_confused(number: int) -> None:
    assert clustered(np.diag([3] * number)).tolist() == list(range(number))


def test_matrix_shows_the_most_confused_of_very_many_classes() -> None:
    evaluation = make(names_of(320), 400)
    picture = draw(evaluation, [])["confusion"]
    assert "Only the 100 most confused of 320 classes" in picture.caption
    assert picture.figure.axes[0].images[0].get_array().shape == (100, 100, 4)  # type: ignore[union-attr]


def test_cells_are_opaque_by_their_share_of_the_row() -> None:
    evaluation = make(names_of(3), 60)
    evaluation = dataclasses.replace(
        evaluation, confusion=np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]])
    )
    cells = draw(evaluation, [])["confusion"].figure.axes[0].images[0].get_array()
    assert cells is not None
    assert cells[..., 3].tolist() == [[0.75, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_calibration_error_of_the_caption_is_that_of_the_bins() -> None:
    bins: dict[str, list[Any]] = {
        "confidence_low": [0.4, 0.8], "confidence_high": [0.6, 1.0], "num_images": [1, 3],
        "confidence": [0.5, 0.9], "accuracy": [1.0, 0.7],
    }  # fmt: skip
    evaluation = make(
        names_of(2), 60, calibration={"temperature": 1.5, "ece_before": 0.2, "ece_after": 0.1}
    )
    curves = dataclasses.replace(evaluation.curves, reliability=bins)
    caption = draw(dataclasses.replace(evaluation, curves=curves), [])["reliability"].caption
    assert "calibration error 0.275" in caption  # (1 * 0.5 + 3 * 0.2) / 4
    assert "temperature 1.5 was fitted to 0.200 before and 0.100 after" in caption


def _marked(evaluation: Evaluation, name: str) -> tuple[float, float]:
    line = draw(evaluation, [])[name].figure.axes[0].lines[-1]
    return float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])


def test_dots_are_where_the_model_decides() -> None:
    evaluation = make(names_of(2), 200)
    targets, predicted = evaluation.predictions.targets, evaluation.predictions.predicted
    recall, fall_out = predicted[targets == 1].mean(), predicted[targets == 0].mean()
    assert _marked(evaluation, "roc") == pytest.approx((fall_out, recall))
    assert _marked(evaluation, "precision_recall") == pytest.approx(
        (recall, targets[predicted == 1].mean())
    )


def test_dot_of_coverage_is_what_abstaining_leaves() -> None:
    evaluation = make(names_of(4), 200, abstain_below=0.7)
    predictions = evaluation.predictions
    decided = predictions.probabilities.max(axis=1) >= 0.7
    share, right = decided.mean(), predictions.correct[decided].mean()
    assert _marked(evaluation, "coverage") == pytest.approx((share, right))
    caption = draw(evaluation, [])["coverage"].caption
    assert f"it decides {share:.1%} of the images, {right:.1%} of them right" in caption
    never = draw(dataclasses.replace(evaluation, abstain_below=1.0), [])["coverage"].caption
    assert "No probability reaches abstain_below 1." in never


def test_names_are_shortened_in_their_middle() -> None:
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("abcdefghijk", 10) == "abcdef…ijk"
    assert plain("a\tb\u202ec\udcff") == "a�b�c�"
    assert label("$x$") == r"\$x\$"
