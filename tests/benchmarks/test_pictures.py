"""The folders that a benchmark is given: refused before anything is measured."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks import measuring, run
from benchmarks.pictures import files_below, with_classes, with_images, with_splits, write_photos


def photos(root: Path, number: int = 2, classes: int = 2) -> Path:
    return write_photos(root, number, (25, 25), classes)


def test_folder_is_taken_when_it_has_what_is_measured(tmp_path: Path) -> None:
    flat = photos(tmp_path / "flat", classes=0)
    train, test = photos(tmp_path / "real/train"), photos(tmp_path / "real/test")
    (tmp_path / "linked").mkdir()
    for folder in (train, test):
        os.symlink(folder, tmp_path / "linked" / folder.name)
    assert with_images(str(flat)) == flat and with_classes(str(train)) == train
    assert with_splits(str(tmp_path / "linked")) == tmp_path / "linked"
    (train / "class0/notes.txt").write_text("")
    assert len(files_below(tmp_path / "linked")) == 4


def test_folder_is_refused_when_it_lacks_what_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("")
    (tmp_path / "texts/a").mkdir(parents=True)
    (tmp_path / "texts/a/x.txt").write_text("")
    flat = photos(tmp_path / "flat", classes=0)
    hollow = photos(tmp_path / "hollow")
    (hollow / "void").mkdir()
    untested = photos(tmp_path / "untested/train").parent
    for check, given, problem in (
        (with_images, tmp_path / "nope", "no such folder"),
        (with_images, file, "is a file, not a folder"),
        (with_images, tmp_path / "texts", "no images in this folder"),
        (with_classes, flat, "needs a folder for each of at least two classes"),
        (with_classes, hollow, "no images of the class void"),
        (with_splits, flat, "no such folder, got " + re.escape(str(flat / "train"))),
        (with_splits, untested, "no such folder, got " + re.escape(str(untested / "test"))),
    ):
        with pytest.raises(ArgumentTypeError, match=f"^{problem}, got|^{problem}$"):
            check(str(given))


WRONG = [
    (["--rounds", "-3"], "argument --rounds: must be a whole number from 1, got -3"),
    (["--rounds", "0"], "argument --rounds: must be a whole number from 1, got 0"),
    (["--rounds", "two"], "argument --rounds: must be a whole number from 1, got two"),
    (["--photos", "/nope"], "argument --photos: no such folder, got /nope"),
]


@pytest.mark.parametrize(("words", "message"), [
    *WRONG, (["--images", "/nope"], "argument --images: no such folder, got /nope"),
])  # fmt: skip
def test_suite_refuses_before_anything_is_prepared(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "prepare", lambda *given: pytest.fail("prepares"))
    monkeypatch.setattr("sys.argv", ["run.py", "step", *words])
    with pytest.raises(SystemExit) as error:
        run.main()
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"run.py: error: {message}"


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_script_refuses_before_anything_is_measured(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["data.py", *words])
    with pytest.raises(SystemExit) as error:
        measuring.run(
            "text",
            lambda given: pytest.fail("measures"),
            lambda parser: parser.add_argument("--photos", type=with_classes),
        )
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"data.py: error: {message}"


@pytest.mark.parametrize("name", run.BENCHMARKS)
def test_script_checks_each_folder_that_it_takes(name: str) -> None:
    script = Path(run.__file__).with_name(f"{name}.py").read_text()
    assert all(f'"--{option}", type=with_' in script for option in run.BENCHMARKS[name])
