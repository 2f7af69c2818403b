"""Sweeps over a fake training, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPACE = {"model.x": {"distribution": "uniform", "low": 0.0, "high": 1.0}}
SECRET = "open-sesame"


def tree(**optuna_keys: Any) -> dict[str, Any]:
    """A configuration for the fake training."""
    return {
        "seed_everything": 1,
        "model": {"x": 0.9},
        "trainer": {"max_epochs": 4},
        "optuna": {
            "tune": True,
            "n_trials": 6,
            "direction": "maximize",
            "metric": "validation_f1_score",
            "search_spaces": SPACE,
            **optuna_keys,
        },
    }


class Sweep:
    """A sweep in a process of its own.

    Args:
        folder: Where it works.
        content: Its configuration.
        environment: Variables on top.
        words: More words for the command line.
    """

    def __init__(
        self,
        folder: Path,
        content: dict[str, Any],
        environment: dict[str, str] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.before = len(starts(folder))
        (folder / "cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tuning.fake_driver", "cfg.yaml", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, seconds: float = 180) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "it never came to be"
            time.sleep(0.01)

    def until_started(self, number: int) -> None:
        """Wait until so many more trials have begun than when this sweep was started."""
        self.until(lambda: len(starts(self.folder)) >= self.before + number)

    def kill(self) -> None:
        """As the kernel does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=20)


@pytest.fixture(autouse=True)
def quiet_optuna() -> None:
    """As in a sweep: a line for every trial is nothing that anybody wants to read."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def run_sweep(workplace: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a whole sweep over the fake training."""

    def run(content: dict[str, Any], *words: str, **environment: str) -> tuple[int, str, str]:
        return Sweep(workplace, content, environment, words).wait()

    return run


def study(folder: Path, name: str = "study") -> optuna.Study:
    """The study that a sweep left in its folder."""
    return optuna.load_study(
        study_name=name, storage=f"sqlite:///{folder / 'runs' / name / 'study.db'}"
    )


def shared_trials(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study in a database, and no connection left open."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def starts(folder: Path) -> list[list[str]]:
    """Every start of a trial: folder name, process, first epoch, CUDA_VISIBLE_DEVICES."""
    file = folder / "starts.txt"
    return [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs, one that nobody has waited for left out."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> None:
    """Within ten seconds none of these processes is left."""
    end = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < end, "an orphan lives on"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty database on a server that lives as long as the tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's initdb is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    # initdb refuses root.
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    password_file = folder / "password"
    password_file.write_text(SECRET)
    password_file.chmod(0o644)
    run = {"check": True, "capture_output": True, "cwd": folder, **as_user}
    data = folder / "data"
    subprocess.run(
        [str(initdb), "-D", str(data), "-U", "tester", "-A", "scram-sha-256",
         "--pwfile", str(password_file), "-E", "UTF8", "--locale=C"],
        **run,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(Path(initdb).with_name("postgres")), "-D", str(data), "-p", str(port),
         "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    url = f"postgresql://tester:{SECRET}@127.0.0.1:{port}/postgres"
    try:
        _wait_for(url)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)
        shutil.rmtree(folder)


def _wait_for(url: str) -> None:
    import psycopg

    for _ in range(200):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("PostgreSQL did not start")
