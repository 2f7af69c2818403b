"""A command in a fresh process: forked from a warm server, or started anew."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from classifier.errors import ConfigError
from classifier.files import write_text
from classifier.runs import TRIAL_DIR_VARIABLE

log = logging.getLogger(__name__)

OUTPUT = "output.txt"
LAUNCHERS = ("forkserver", "subprocess")
_ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package
# After the driver's death a child has so long to write its checkpoint.
_GRACE_SECONDS = 7.0
# What an earlier command in this process may have left behind for its own further ranks.
_NOT_INHERITED = ("CLASSIFIER_RUN_DIR", "PL_GLOBAL_SEED")

Program = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Child:
    """A started command: the leader of a process group of its own.

    Args:
        pid: Its number, and that of its group.
        poll: Gives the exit status, negative for a signal; None while it runs.
    """

    pid: int
    poll: Callable[[], int | None]


class ForkServer:
    """Forks from a server that has imported what a training imports, and nothing more.

    The server computes nothing and touches no GPU: a child of a process that ever ran a torch
    operation hangs in OpenMP, and one of a process that used CUDA cannot use it.

    Args:
        program: Runs a command line and gives its exit code; importable by name.
        preload: The module that imports what a training needs.
    """

    def __init__(self, program: Program, preload: str) -> None:
        self.program = program
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([preload])
        self._warm_up()

    def _warm_up(self) -> None:
        """Start the server now: it imports while the caller goes on.

        It finds the package by PYTHONPATH: it starts before it knows the caller's sys.path.
        """
        from multiprocessing import forkserver

        before = dict(os.environ)
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        # Asked for a GPU, torch shall look at the driver's list instead of starting CUDA.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
        """Run a command of the program in a process of its own.

        Args:
            words: Its command line.
            folder: Existing; the command's run folder, and where its output goes.
            environment: Variables that differ from this process's.
        """
        self._warm_up()  # the server may have died meanwhile
        process = self._context.Process(
            target=_run_forked,
            # The server knows the variables of its own start only.
            args=(self.program, list(words), str(folder.resolve()), {**os.environ, **environment}),
        )
        with _main_left_out():
            process.start()
        assert process.pid is not None
        return Child(process.pid, lambda: process.exitcode)


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Within the block children do not import the script that was started.

    They need nothing of it, and a script that calls `main` without asking for its `__name__` would
    start the sweep again in each of them.
    """
    main = sys.modules["__main__"]
    before = {name: main.__dict__.get(name) for name in ("__file__", "__spec__")}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = before["__spec__"]
        if before["__file__"] is not None:
            main.__file__ = before["__file__"]


def _run_forked(
    program: Program, words: list[str], folder: str, environment: dict[str, str]
) -> None:
    """What the forked child does: become the command."""
    os.setsid()
    with open(Path(folder, OUTPUT), "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    for name in _NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ[TRIAL_DIR_VARIABLE] = folder
    _limit_threads()
    # DataLoader workers would each be forked from a cold server otherwise.
    multiprocessing.set_start_method("fork", force=True)
    driver = multiprocessing.parent_process()
    assert driver is not None
    _end_after(driver.join)
    raise SystemExit(program(words))


def _limit_threads() -> None:
    """OpenMP read its variable when the server imported torch; torch can be told later."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch: Any = sys.modules.get("torch")
    if threads.isdigit() and torch is not None:
        torch.set_num_threads(int(threads))


class Subprocess:
    """Starts `python main.py` anew: where a process cannot fork, and for trials of several ranks.

    Args:
        main: The program's file.
    """

    def __init__(self, main: Path = _ROOT / "main.py") -> None:
        self.main = main

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
        """Run a command, as `ForkServer.start` does."""
        own = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        with open(folder / OUTPUT, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(self.main), *words],
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**own, **environment, TRIAL_DIR_VARIABLE: str(folder.resolve())},
                start_new_session=True,
            )

        def poll() -> int | None:
            code = process.poll()
            if code is not None and process.stdin is not None:
                process.stdin.close()
            return code

        return Child(process.pid, poll)


Launcher = ForkServer | Subprocess


def write_config(file: Path, tree: Mapping[str, Any], heading: str = "") -> None:
    """Write what `--config` reads, below lines of comment."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    content = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    write_text(file, f"{comment}{content}")


def start_launcher(asked: str | None, program: Program, preload: str) -> Launcher:
    """The launcher that was asked for, else the faster one that works here."""
    if asked != "subprocess" and "forkserver" in multiprocessing.get_all_start_methods():
        try:
            return ForkServer(program, preload)
        except OSError as error:
            log.warning("no server to fork trials from (%s): each is started anew", error)
    return Subprocess()


def launcher_of(num_devices: int, asked: str | None, started: Launcher) -> Launcher:
    """The launcher for trials of so many devices, given that for trials of one.

    Lightning starts further ranks by running the command again: it must be one.

    Raises:
        ConfigError: forkserver was asked for, and a trial has several devices.
    """
    if num_devices == 1 or isinstance(started, Subprocess):
        return started
    if asked == "forkserver":
        raise ConfigError(
            "optuna.launcher", f"a trial of {num_devices} devices cannot be forked",
            got="forkserver", remedy="Write subprocess, null, or trainer.devices: 1",
        )  # fmt: skip
    log.info("a trial uses %d devices: each is a process of its own", num_devices)
    return Subprocess()


def open_standard_files() -> None:
    """Give a process that was started with closed standard files some that lead nowhere.

    A pipe to a child would take their numbers, and the child overwrites those with its own.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (until the process ends)


def end_with_driver() -> None:
    """End this process, and its group, when the process that started it ends."""

    def wait() -> None:
        while os.read(0, 1):  # standard input closes with the driver
            continue

    _end_after(wait)


def _end_after(wait: Callable[[], Any]) -> None:
    def watch() -> None:
        wait()
        if callable(signal.getsignal(signal.SIGTERM)):
            # A training listens: it writes its checkpoint and ends, with what it started.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_GRACE_SECONDS)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-driver", daemon=True).start()


def ask_to_end(child: Child) -> None:
    """SIGTERM: the command writes its checkpoint and ends."""
    if child.poll() is None:
        os.kill(child.pid, signal.SIGTERM)


def kill(child: Child) -> None:
    """SIGKILL for the command and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
    except PermissionError:
        return  # the group's number is another user's by now: nothing of ours is left in it
