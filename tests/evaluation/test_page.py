"""report/index.html: one file that loads nothing, runs nothing, and says what the evaluation says."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.evaluation.page import verdict, write_page
from classifier.evaluation.picture import write_pictures
from classifier.evaluation.plots import draw
from classifier.evaluation.results import Evaluation
from classifier.evaluation.thumbnails import thumbnails
from tests.evaluation.making import EVIL, HOSTILE, history, make, make_several, names_of

VOID = {"meta", "img", "br", "wbr", "link", "input", "path", "use", "image", "rect", "line"}


class Page(HTMLParser):
    """Elements, texts and whether what is opened is closed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def values(self, *names: str) -> list[str]:
        return [
            text or ""
            for _, found in self.elements
            for name, text in found.items()
            if name in names
        ]


def page_of(
    folder: Path, *evaluations: Evaluation, only: tuple[str, ...] = ("confusion",), **changes: Any
) -> Page:
    """The page, with the pictures that a test is about: each takes its time."""
    drawn = draw(evaluations[0], history(2))
    pictures = {name: picture for name, picture in drawn.items() if not only or name in only}
    given: dict[str, Any] = {
        "pictures": pictures, "thumbnails": thumbnails(evaluations[0], lambda row: np.zeros((9, 9, 3), np.uint8)),
        "facts": {"data": {"root": "data/x"}, "run": {"model": EVIL}, "environment": {}},
        "config_text": f"seed_everything: 1\nname: '{EVIL}'\n", "title": f"exam {EVIL}",
    }  # fmt: skip
    return Page(write_page(folder, evaluations, **{**given, **changes}))


@pytest.mark.parametrize("several", [False, True])
def test_page_runs_and_loads_nothing_whatever_names_say(tmp_path: Path, several: bool) -> None:
    (tmp_path / f"{'a' * 9}&#<b>.csv").touch()
    page = page_of(
        tmp_path, make_several(HOSTILE, 60) if several else make(HOSTILE, 60, absent=[0]), only=()
    )
    tags = {tag for tag, _ in page.elements}
    assert not tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "animate",
        "foreignobject",
    }
    assert page.source.count("Content-Security-Policy") == 1
    assert "default-src 'none'" in page.source
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert all(text.startswith("data:image/") for text in page.values("src"))
    links = page.values("href", "xlink:href")
    assert links and not [
        link
        for link in links
        if re.match(r"[a-z]+:(?!image/png;base64)|//", link.removeprefix("data:"))
    ]
    assert not re.search("https?:|@import", page.source)
    ids = page.values("id")
    assert ids and len(ids) == len(set(ids))
    assert "&lt;script&gt;" in page.source


def test_page_follows_the_readers_choice_of_light_or_dark(tmp_path: Path) -> None:
    page = page_of(tmp_path, make(names_of(4), 60))
    assert "prefers-color-scheme: dark" in page.source
    assert "currentColor" in page.source and "var(--blue)" in page.source


def test_page_shows_both_stages_the_absent_and_the_failed(tmp_path: Path) -> None:
    test = make(names_of(4), 60, absent=[2])
    page = page_of(tmp_path, test, make(names_of(4), 80, stage="validation"))
    text = " ".join(" ".join(page.texts).split())
    assert "test, 60 images" in text and "validation, 80 images" in text
    assert "No test images of bird: in no average." in text
    assert "1 test image could not be decoded and is in no figure." in text
    assert "broken/one.jpg: the file is empty" in text
    assert f"{test.estimates['accuracy'].value:.3f}" in text
    assert "balanced accuracy" in text and "seed_everything: 1" in text
    worst, other = np.unravel_index(
        np.argmax(test.confusion - np.diag(np.diag(test.confusion))), test.confusion.shape
    )
    rows = re.findall(
        r'<td class="name">(\w+)</td>\s*<td class="name">(\w+)</td><td class="n">(\d+)', page.source
    )
    assert rows[0] == (names_of(4)[worst], names_of(4)[other], str(test.confusion[worst, other]))


def test_classes_stand_weakest_first_and_folded_when_many(tmp_path: Path) -> None:
    few = page_of(tmp_path, make(names_of(10), 300, absent=[4]), only=("per_class",))
    table = few.source.partition("<thead><tr><th>class</th>")[2].partition("</table>")[0]
    evaluation = make(names_of(10), 300, absent=[4])
    ranked = sorted(evaluation.classes, key=lambda f: 2.0 if f.f1_score is None else f.f1_score)
    assert re.findall(r'class="name">(\w+)<', table) == [figures.name for figures in ranked]
    assert "weakest first</summary>" not in few.source
    many = page_of(tmp_path, make(names_of(40), 300), only=("per_class",))
    assert re.search(r"<summary>All 40\s+classes, weakest first</summary>", many.source)


def test_page_links_to_the_files_beside_it(tmp_path: Path) -> None:
    report = tmp_path / "report"
    (report / "validation").mkdir(parents=True)
    for name in (
        "per_class.csv",
        "validation/metrics.json",
        "../metrics.csv",
        "note.txt",
        ".hidden.csv",
    ):
        (report / name).touch()
    evaluation = make(names_of(2), 60)
    assert write_pictures({"confusion": draw(evaluation, [])["confusion"]}, report)
    links = page_of(report, evaluation).values("href")
    assert {"per_class.csv", "validation/metrics.json", "../metrics.csv", "confusion.png"} <= set(
        links
    )
    assert not {"note.txt", ".hidden.csv", "index.html"} & set(links)
    for link in links:
        if not link.startswith(("#", "data:")):
            assert (report / link).is_file()


def test_page_can_be_written_of_next_to_nothing(tmp_path: Path) -> None:
    evaluation = dataclasses.replace(make(names_of(4), 60), estimates={}, figures={}, classes=[])
    page = Page(write_page(tmp_path, [evaluation], {}, [], {}, "", "x"))
    assert "There is nothing to say of 60 test images." in " ".join(page.texts)
    assert [text for text in page.texts if "worst errors" in text] == []


def test_verdict_is_one_sentence() -> None:
    evaluation = make(names_of(4), 60)
    value = evaluation.estimates["accuracy"]
    weakest = min(evaluation.classes, key=lambda f: f.f1_score or 0.0)
    assert verdict(evaluation) == (
        f"Accuracy {value.value:.3f} (95 % interval {value.low:.3f} to {value.high:.3f}) on 60 test "
        f"images; weakest class: {weakest.name} (F1 {weakest.f1_score:.3f}, recall {weakest.recall:.3f})."
    )


def test_thumbnails_show_truth_prediction_and_path(tmp_path: Path) -> None:
    evaluation = make(names_of(4), 200)
    shown, gone = thumbnails(evaluation, lambda row: np.zeros((9, 9, 3), np.uint8), most=2)
    gone = dataclasses.replace(gone, jpeg=None)
    page = page_of(tmp_path, evaluation, thumbnails=[shown, gone])
    text = " ".join(" ".join(page.texts).split())
    wrong = int((~evaluation.predictions.correct).sum())
    assert f"2 of {wrong} images that were not taken for what they are" in text
    assert f"{shown.prediction} {shown.score:.3f}" in text and f"is {shown.truth}" in text
    assert shown.path in text.replace("/ ", "/") and "no picture" in text
    assert page.source.count("data:image/jpeg;base64,") == 1
