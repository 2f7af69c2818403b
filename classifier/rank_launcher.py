"""The further processes of a distributed training: started, watched, and never left behind."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch.distributed
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from classifier.errors import ConfigError

log = logging.getLogger(__name__)

# After another process has failed, this one has so long to notice it by itself.
_NOTICE_SECONDS = 5.0
# After this process is done, the others have so long to end.
_LEAVE_SECONDS = 30.0
_FAILED_SECONDS = 3.0
_POLL_SECONDS = 0.1


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, which ends a training whose further processes fail, with its reason.

    Lightning's own watch kills this process within five seconds of another's failure, also in the
    middle of writing down why. Here the training ends as any failed one does. With NCCL, where it
    waits for the lost process without end, `on_lost` is called.

    Args:
        of: The launcher that it replaces.
    """

    def __init__(self, of: _SubprocessScriptLauncher) -> None:
        super().__init__(of.cluster_environment, of.num_processes, of.num_nodes)
        self.on_lost: Callable[[], None] = lambda: None
        self._over = threading.Event()

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start the further processes of this machine, and run a function beside them."""
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch(self) -> None:
        while not any(process.poll() for process in self.procs):
            if self._over.wait(_POLL_SECONDS):
                return
        if not self._over.wait(_NOTICE_SECONDS):
            self._kill()
            self.on_lost()

    def end(self, *, failed: bool) -> None:
        """Wait for the further processes to end, and kill those that do not.

        Args:
            failed: This process has failed: the others wait for it without end.
        """
        self._over.set()
        patience = _FAILED_SECONDS if failed else _LEAVE_SECONDS
        until = time.monotonic() + patience
        for process in self.procs:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill()
        if not failed and any(process.returncode for process in self.procs):
            log.warning("a further process of the training ended badly, after its work was done")

    def _kill(self) -> None:
        for process in self.procs:
            process.kill()
            process.wait()


def take_over_launching(trainer: L.Trainer) -> None:
    """Give a trainer of several processes the launcher of this module.

    Args:
        trainer: Newly made.

    Raises:
        ConfigError: the strategy starts its processes in another way, from within this one.
    """
    strategy: Any = trainer.strategy
    if type(strategy.launcher) is _SubprocessScriptLauncher:
        strategy._launcher = RankLauncher(strategy.launcher)
    elif getattr(strategy, "_start_method", "popen") != "popen":
        raise ConfigError(
            "trainer.strategy", "the processes must be commands of their own",
            got=f"start_method: {strategy._start_method}", remedy="Write ddp",
        )  # fmt: skip


def launcher_of(trainer: Any) -> RankLauncher | None:
    """The launcher of this module, where the trainer has it; None with one process."""
    launcher = trainer.strategy.launcher
    return launcher if isinstance(launcher, RankLauncher) else None


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    return isinstance(error, torch.distributed.DistError) or any(
        sign in str(error) for sign in ("gloo/", "Connection closed by peer", "NCCL error")
    )
