"""What a trial's folder tells: values as they come, and how it ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from classifier.callbacks.table import MetricsTable
from classifier.tuning import following
from classifier.tuning.following import MetricsFile, read_outcome, tail

METRIC = "validation_f1_score"


def append(file: Path, text: str) -> None:
    with file.open("a") as stream:
        stream.write(text)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_values_come_once_each_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    follower = MetricsFile(file, METRIC)
    assert follower.new_values() == []
    append(file, f"epoch,step,train_loss,{METRIC}\n0,1,0.5,\n0,3,0.4,0.25\n1,7,0.3,0.")
    assert follower.new_values() == [(0, 0.25)]  # the last line is not finished
    append(file, "75\n")
    assert follower.new_values() == [(1, 0.75)]
    append(file, "1,9,0.2,0.99\n2,11,0.1,nan\n,12,0.1,\n")
    assert follower.new_values() == []  # an epoch counts once, and nan is no value
    assert follower.epoch == 2


def test_values_are_found_when_the_file_was_written_anew_with_more_columns(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    follower = MetricsFile(file, METRIC)
    append(file, "epoch,step,train_loss\n0,1,0.5\n")
    assert follower.new_values() == []
    file.write_text(f"epoch,step,train_loss,{METRIC}\n0,1,0.5,0.125\n")
    assert follower.new_values() == [(0, 0.125)]


def test_rows_that_were_read_are_not_read_again_when_more_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    rows = following._rows

    def noted(text: str) -> Any:
        found = rows(text)
        parsed.append(len(found))
        return found

    monkeypatch.setattr(following, "_rows", noted)
    table = MetricsTable(tmp_path)
    follower = MetricsFile(tmp_path / "metrics.csv", METRIC)
    found = []
    for epoch in range(30):
        for step in range(5):
            table.log_metrics({"epoch": epoch, "train_loss": 0.5}, 5 * epoch + step)
        found += follower.new_values()
        # Into the row that was read already.
        table.log_metrics({"epoch": epoch, METRIC: epoch / 64}, 5 * epoch + 4)
        found += follower.new_values()
    assert found == [(epoch, epoch / 64) for epoch in range(30)]
    assert max(parsed) <= 6


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_values_are_found_wherever_the_writer_was_interrupted(tmp_path: Path, end: str) -> None:
    file = tmp_path / "metrics.csv"
    rows = ["epoch,step," + METRIC, "0,1,", "0,2,0.25", "1,3,0.5", "2,4,0.75"]
    whole = "".join(row + end for row in rows)
    for length in range(len(whole)):
        file.unlink(missing_ok=True)
        follower = MetricsFile(file, METRIC)
        append(file, whole[:length])
        found = follower.new_values()
        append(file, whole[length:])
        assert found + follower.new_values() == [(0, 0.25), (1, 0.5), (2, 0.75)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"status": "running"}, "result.json does not say that it completed"),
        ([1], "result.json does not say that it completed"),
        ({"status": "completed"}, f"{METRIC} was not logged; the metrics are none"),
        ({"status": "completed", "metrics": {METRIC: "high"}}, "is high, which is not finite"),
        ({"status": "completed", "metrics": {METRIC: 10**400}}, "which is not finite"),
        ({"status": "completed", "metrics": {METRIC: True}}, "is True, which is not finite"),
        ({"status": "completed", "metrics": {METRIC: 1e999}}, "is inf, which is not finite"),
    ],
)
def test_outcome_is_a_failure_when_the_result_is_not_whole(
    tmp_path: Path, content: Any, reason: str
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(content))
    outcome = read_outcome(tmp_path, 0, [METRIC])
    assert outcome.values is None
    assert reason in outcome.reason


def test_odd_files_are_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[" * 200_000)
    assert "is no JSON" in read_outcome(tmp_path, 0, [METRIC]).reason
    (tmp_path / "error.txt").mkdir()
    assert read_outcome(tmp_path, 1, [METRIC]).reason == "exit code 1: it said nothing"
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"epoch,step," + METRIC.encode() + b"\n0,1,0.5\n1,\xff\xfe,0.25\n")
    assert MetricsFile(file, METRIC).new_values() == [(0, 0.5), (1, 0.25)]
    file.write_text(f"epoch,step,{METRIC}\n0,1,{'9' * 200_000}\n")
    assert MetricsFile(file, METRIC).new_values() == []


def test_outcome_is_that_of_the_best_checkpoint(tmp_path: Path) -> None:
    content = {
        "status": "completed",
        "metrics": {METRIC: 0.5, "num_parameters": 7.0},
        "best_metrics": {METRIC: 0.8},
        "num_epochs": 3,
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    outcome = read_outcome(tmp_path, 0, [METRIC, "num_parameters"])
    assert (outcome.values, outcome.reason, outcome.epochs) == ((0.8, 7.0), "", 3)


def test_tail_is_short_and_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert tail(tmp_path) == ""
    (tmp_path / "output.txt").write_bytes(b"x" * 50_000 + b"\n\xff\xfe last words\n")
    assert tail(tmp_path).endswith("last words")
    assert len(tail(tmp_path)) <= 2000
    assert read_outcome(tmp_path, 3, [METRIC]).reason == "exit code 3: \ufffd\ufffd last words"
