"""Both ways to start a trial give the same child: its own group, its own folder, gone with its driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from classifier.tuning import launching
from tests.tuning.conftest import ROOT, wait_until_gone

# What the driver of the tests below runs: it starts one child and waits.
DRIVER = """
import sys, time
from pathlib import Path
from classifier.tuning.launching import ForkServer, Subprocess
from tests.tuning import probing
folder = Path(sys.argv[2])
launcher = (
    ForkServer(probing.program, probing.__name__)
    if sys.argv[1] == "forkserver"
    else Subprocess(Path(probing.__file__))
)
child = launcher.start(sys.argv[3:], folder, {"GIVEN": "yes"})
(folder / "pid").write_text(str(child.pid))
while (code := child.poll()) is None:
    time.sleep(0.01)
(folder / "code").write_text(str(code))
"""


def drive(launcher: str, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, launcher, str(folder), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_for(file: Path) -> str:
    end = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.01)
    return file.read_text()


launchers = pytest.mark.parametrize("launcher", launching.LAUNCHERS)


@launchers
def test_child_has_folder_environment_group_and_output_of_its_own(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSIFIER_RUN_DIR", "/elsewhere")  # of an earlier command
    assert drive(launcher, tmp_path, "tell").wait(timeout=60) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["words"] == ["tell"]
    assert told["given"] == "yes"
    assert told["run_dir"] is None
    assert told["group"] == told["pid"]
    assert told["start_method"] == "fork"
    assert (tmp_path / "code").read_text() == "7"
    output = (tmp_path / "output.txt").read_text()
    assert "on stdout" in output
    assert "on stderr" in output


@launchers
@pytest.mark.parametrize(("word", "code"), [("die", -signal.SIGKILL), ("raise", 1), ("well", 0)])
def test_exit_status_is_that_of_the_child(
    launcher: str, word: str, code: int, tmp_path: Path
) -> None:
    assert drive(launcher, tmp_path, word).wait(timeout=60) == 0
    assert (tmp_path / "code").read_text() == str(code)


@launchers
@pytest.mark.parametrize("word", ["sleep", "ignore"])
def test_children_are_gone_when_the_driver_was_killed(
    launcher: str, word: str, tmp_path: Path
) -> None:
    driver = drive(launcher, tmp_path, word)
    pid = int(wait_for(tmp_path / "pid"))
    grandchild = int(wait_for(tmp_path / "grandchild"))
    driver.kill()
    driver.wait()
    wait_until_gone(pid, grandchild)


@launchers
def test_kill_reaches_what_the_child_started(launcher: str, tmp_path: Path) -> None:
    driver = drive(launcher, tmp_path, "ignore")
    pid = int(wait_for(tmp_path / "pid"))
    grandchild = int(wait_for(tmp_path / "grandchild"))

    launching.kill(launching.Child(pid, lambda: None))
    assert driver.wait(timeout=30) == 0
    assert (tmp_path / "code").read_text() == str(-signal.SIGKILL)
    wait_until_gone(grandchild)


def test_warm_server_only_imports(tmp_path: Path) -> None:
    """No thread, no GPU: its children would hang, or find CUDA unusable."""
    code = """
import sys
import classifier.warm, torch, os
print(len(os.listdir("/proc/self/task")), torch.cuda.is_initialized(), "timm" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "False", "True"], done.stderr


def test_tuning_imports_neither_torch_nor_lightning() -> None:
    code = """
import sys, importlib, pkgutil, classifier.tuning
for module in pkgutil.iter_modules(classifier.tuning.__path__, "classifier.tuning."):
    importlib.import_module(module.name)
heavy = {"torch", "lightning", "matplotlib", "pandas", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
