"""Planted mistakes are found by the library that the list is made with."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from classifier.errors import ConfigError
from classifier.evaluation.results import Predictions
from classifier.repeating import label_issues
from classifier.repeating.label_issues import check_library, write_label_issues

NAMES = ("cat", "dog", "eel")


def listed(predictions: Predictions, file: Path) -> list[dict[str, str]]:
    number = write_label_issues(predictions, file)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == number
    return rows


def test_planted_wrong_labels_come_first(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(0)
    truth = np.arange(120) % 3
    logits = rng.normal(0, 0.4, (120, 3))
    logits[np.arange(120), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = truth.copy()
    planted = [4, 30, 77, 101]
    given[planted] = (truth[planted] + 1) % 3
    paths = [f"{index:03d}.png" for index in range(120)]
    rows = listed(
        Predictions(NAMES, "multiclass", paths, probabilities, given, probabilities.argmax(axis=1)),
        tmp_path / "label_issues.csv",
    )
    assert list(rows[0]) == ["path", "target", "label_given", "label_suggested", "score"]
    first = rows[: len(planted)]
    assert {row["path"] for row in first} == {paths[index] for index in planted}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    for row in first:
        index = int(row["path"][:3])
        assert row["label_given"] == NAMES[given[index]] == NAMES[int(row["target"])]
        assert row["label_suggested"] == NAMES[truth[index]]
        assert float(row["score"]) == pytest.approx(probabilities[index, given[index]], rel=1e-5)


def test_planted_wrong_labels_are_found_when_an_image_has_several(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(1)
    truth = rng.random((90, 3)) < 0.4
    probabilities = np.clip(np.where(truth, 0.93, 0.07) + rng.normal(0, 0.02, (90, 3)), 0.01, 0.99)
    given = truth.copy()
    given[5, 0] ^= True
    given[60, 2] ^= True
    paths = [f"{index:03d}.png" for index in range(90)]
    rows = listed(
        Predictions(NAMES, "multilabel", paths, probabilities, given, probabilities > 0.5),
        tmp_path / "label_issues.csv",
    )
    assert {row["path"] for row in rows[:2]} == {"005.png", "060.png"}
    row = next(row for row in rows if row["path"] == "005.png")
    own = [name for name, is_in in zip(NAMES, given[5], strict=True) if is_in]
    assert row["label_given"] == "|".join(own)


def test_missing_library_is_told_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_issues, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--label_issues: needs cleanlab, .* pip install"):
        check_library()
