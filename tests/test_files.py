"""Folders appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.errors import RunError
from classifier.files import content_of, filling_folder, replacing

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_folder_is_filled_when_the_block_ends_well(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    with filling_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "one").write_text("1")
        (temporary / "two").write_text("2")
        assert not (folder / "two").exists()
    assert names(folder) == ["inner", "inner/one", "two"]
    assert names(tmp_path / "a") == ["b", "b/inner", "b/inner/one", "b/two"]


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "b"
    if there:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt), filling_folder(folder) as temporary:
        (temporary / "one").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["b"] if there else [])


def test_what_was_moved_is_taken_back_when_a_later_file_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = __import__("os").replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "two":
            raise OSError("disk full")
        real(source, target)

    with pytest.raises(OSError, match="disk full"), filling_folder(tmp_path) as temporary:
        (temporary / "one").write_text("1")
        (temporary / "two").write_text("2")
        monkeypatch.setattr("classifier.files.os.replace", replace)
    assert names(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("other", ["two", "own"])
def test_second_gives_way_when_two_fill_one_folder(tmp_path: Path, there: bool, other: str) -> None:
    folder = tmp_path / "b"
    if there:
        folder.mkdir()
    with (
        pytest.raises(RunError, match="was filled by somebody else meanwhile"),
        filling_folder(folder) as temporary,
    ):
        (temporary / "one").write_text("mine")
        (temporary / "two").write_text("mine")
        folder.mkdir(exist_ok=True)
        (folder / other).write_text("theirs")
    assert names(tmp_path) == ["b", f"b/{other}"]
    assert (folder / other).read_text() == "theirs"


def test_second_gives_way_when_both_move_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "a":
            (tmp_path / "m").write_text("theirs")

    with pytest.raises(RunError, match="meanwhile"), filling_folder(tmp_path) as temporary:
        for name in "amz":
            (temporary / name).write_text("mine")
        monkeypatch.setattr("classifier.files.os.replace", replace)
    assert names(tmp_path) == ["m"] and (tmp_path / "m").read_text() == "theirs"


KILLED = """
import os, signal, sys
from pathlib import Path
from classifier.files import filling_folder
with filling_folder(Path(sys.argv[1])) as temporary:
    (temporary / "one").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folder_is_filled_when_a_process_was_killed_while_it_filled_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 and content_of(tmp_path) == []
    with filling_folder(tmp_path) as temporary:
        (temporary / "two").write_text("2")
    assert names(tmp_path) == ["two"]


def test_what_a_living_process_writes_is_no_leftover(tmp_path: Path) -> None:
    living = tmp_path / f".{os.getppid()}.tmp"
    living.mkdir()
    assert content_of(tmp_path) == [living.name]


def test_good_file_is_left_alone_when_a_killed_process_has_left_a_name_of_it(
    tmp_path: Path,
) -> None:
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    best.write_text("best")
    os.link(best, tmp_path / f".last.ckpt.{os.getpid()}.tmp")
    with replacing(last) as temporary:
        temporary.write_text("last")
    assert (best.read_text(), last.read_text()) == ("best", "last")
