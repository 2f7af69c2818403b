"""The suite, with benchmarks that measure nothing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import guard, measuring, peer_environment, results, run
from benchmarks.measuring import Case, Comparison, Measured

FOLDER = Path(run.__file__).parent


def tables(key: str, ours: float) -> list[Measured]:
    figures = {"ours": [ours, ours], "theirs": [1.0, 1.0]}
    return [Measured(key, f"work of {key}", "seconds", False, ["theirs"], ["ours"], figures)]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call the suite with a command line; the benchmark `sweep` fails."""
    baseline, written = tmp_path / "baseline.json", tmp_path / "RESULTS.md"
    written.write_text("# Results\n\nProse.\n")
    seconds = {"startup": [2.0], "step": [3.0]}

    def measured_by(name: str, given: object) -> list[Measured]:
        if name == "sweep":
            raise subprocess.CalledProcessError(1, name)
        left = seconds[name]
        return tables(name, left.pop(0) if len(left) > 1 else left[0])

    keep, read = guard.keep, guard.read
    monkeypatch.setattr(run, "measured_by", measured_by)
    monkeypatch.setattr(run, "prepare", lambda names, without_peers: None)
    monkeypatch.setattr(run, "RESULTS", written)
    monkeypatch.setattr(guard, "keep", lambda found, where: keep(found, where, baseline))
    monkeypatch.setattr(guard, "read", lambda file=baseline: read(file))

    def call(*words: str, **changed: list[float]) -> int:
        seconds.update(changed)
        monkeypatch.setattr("sys.argv", ["run.py", *words])
        return run.main()

    return call


def test_tables_are_written_and_prose_stays_when_benchmarks_were_run(
    suite: Callable[..., int], tmp_path: Path
) -> None:
    assert suite("startup", "step") == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("# Results\n\nProse.\n")
    for name in ("startup", "step"):
        begin, end = results.marks(name)
        assert f"| work of {name} (n = 2) |" in text[text.index(begin) : text.index(end)]
    assert not (tmp_path / "baseline.json").exists()
    suite("step", "--keep")
    assert "| work of step (n = 4) |" in (tmp_path / "RESULTS.md").read_text()
    suite("startup", "--keep")  # each of its figures is of a process of its own anyway
    assert "| work of startup (n = 2) |" in (tmp_path / "RESULTS.md").read_text()


def test_words_behind_the_dashes_are_for_the_script_of_one_benchmark(
    suite: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def measured_by(name: str, words: argparse.Namespace) -> list[Measured]:
        given.append(words.more)
        return []

    monkeypatch.setattr(run, "measured_by", measured_by)
    suite("step", "--rounds", "2", "--", "--size", "96")
    suite("step")
    assert given == [["--size", "96"], []]
    with pytest.raises(SystemExit):
        suite("step", "startup", "--", "--size", "96")


def test_comparison_names_what_got_worse_and_writes_nothing_when_asked_for(
    suite: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite("startup", "step", "--keep")
    before = {file: file.read_text() for file in tmp_path.iterdir()}
    assert suite("startup", "step", "--compare", step=[9.0]) == 1
    shown = capsys.readouterr().out
    assert "WORSE step: ours / theirs is 9.00" in shown and "WORSE startup" not in shown
    assert {file: file.read_text() for file in tmp_path.iterdir()} == before
    assert suite("startup", "step", "--compare", step=[3.0]) == 0


def test_ratio_is_no_worse_when_it_only_looked_so_in_one_of_two_runs(
    suite: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    suite("step", "--keep")
    assert suite("step", "--compare", step=[9.0, 3.0]) == 0
    assert "step once more" in capsys.readouterr().out


def test_other_benchmarks_are_run_when_one_fails(
    suite: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite("sweep", "step") == 1
    assert "failed: sweep" in capsys.readouterr().err
    assert results.marks("step")[0] in (tmp_path / "RESULTS.md").read_text()


def test_names_are_listed_when_one_is_unknown(
    suite: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        suite("startupp")
    assert error.value.code == 2
    assert "no benchmark startupp; there are startup, sweep," in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["--keep", "--compare"])
def test_ratios_are_neither_kept_nor_judged_when_there_is_no_spread(
    suite: Callable[..., int], mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        suite("step", mode, "--rounds", "2")
    assert error.value.code == 2
    assert "--rounds: of 2 there is no spread, give at least 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", run.BENCHMARKS)
def test_benchmark_has_a_script_with_its_options_and_a_place_in_the_results(name: str) -> None:
    script = (FOLDER / f"{name}.py").read_text()
    assert all(f'"--{option}"' in script for option in run.BENCHMARKS[name])
    begin, end = results.marks(name)
    text = results.RESULTS.read_text()
    assert (text.count(begin), text.count(end)) == (1, 1)
    assert text.index(begin) < text.index(end)


def test_figures_come_back_whole_when_a_benchmark_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def once() -> float:
        calls.append("ours")
        return 2.0

    comparison = Comparison(
        "step",
        "work",
        (Case("ours", once, ours=True), Case("bare", lambda: 1.0)),
        ("bare",),
        rounds=3,
    )
    file = tmp_path / "figures.json"
    for words, expected in (([], 4), (["--rounds", "2"], 3), (["--smallest"], 1)):
        calls.clear()
        monkeypatch.setattr("sys.argv", ["step.py", "--json", str(file), *words])
        measuring.run("text", lambda given: iter([comparison]))
        assert len(calls) == expected  # the rounds, and one to warm up where it is no test run
    (measured,) = [Measured(**plain) for plain in json.loads(file.read_text())]
    assert measured.figures == {"ours": [2.0], "bare": [1.0]}
    assert measuring.table(measured) in capsys.readouterr().out


def test_environment_of_the_peers_lies_outside_the_project_and_changes_with_their_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = peer_environment.folder()
    assert before.is_relative_to(tmp_path / "classifier-benchmarks")
    pins = tmp_path / "peers.txt"
    pins.write_text(peer_environment.PINS.read_text().replace("timm==", "timm==9"))
    monkeypatch.setattr(peer_environment, "PINS", pins)
    assert peer_environment.folder() != before


def test_installed_environment_is_taken_as_it_is_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("subprocess.run", lambda *words, **more: pytest.fail("installs"))
    place = peer_environment.folder()
    place.mkdir(parents=True)
    (place / peer_environment.DONE).touch()
    script = FOLDER / "peers/train_fastai.py"
    assert peer_environment.command("train_fastai", Path("a"), 3) == [
        str(place / "bin/python"),
        str(script),
        "a",
        "3",
    ]
    assert script.exists()
    assert peer_environment.command("train_timm")[0] == sys.executable
