from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import Dataset

from classifier.data.loading import init_worker
from classifier.data.worker_signals import SteadyLoader


class Numbers(Dataset[int]):
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 40

    def __getitem__(self, item: int) -> int:
        time.sleep(self.seconds)
        return item


def terminated_before_init(worker_id: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    init_worker(worker_id)


def open_loader(seconds: float = 0.0, init: Any = init_worker) -> Any:
    return iter(SteadyLoader(Numbers(seconds), num_workers=2, worker_init_fn=init))


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    for child in multiprocessing.active_children():
        child.terminate()  # torch would tell of a killed one in the midst of the next test
        child.join(timeout=5)


def test_workers_go_on_when_somebody_else_terminates_them() -> None:
    batches = open_loader()
    found = [int(next(batches))]
    workers: list[Any] = multiprocessing.active_children()
    for _ in range(3):
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
            # From another process than the parent, as `timeout` does.
            multiprocessing.Process(target=os.kill, args=(worker.pid, signal.SIGTERM)).start()
    time.sleep(0.2)
    found += [int(batch) for batch in batches]
    assert found == list(range(40))


def test_workers_live_when_terminated_before_they_are_set_up() -> None:
    assert [int(batch) for batch in open_loader(init=terminated_before_init)] == list(range(40))


def test_busy_workers_end_quietly_when_their_parent_terminates_them() -> None:
    batches = open_loader(seconds=60.0)
    workers = multiprocessing.active_children()
    # As multiprocessing does when the program ends; it then waits without a limit.
    time.sleep(0.2)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(timeout=5)
    assert [worker.exitcode for worker in workers] == [0, 0]
    batches.close()


def test_loader_leaves_the_signals_of_its_own_process_alone() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    next(open_loader())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


class Failing(Numbers):
    def __getitem__(self, item: int) -> int:
        raise ConnectionResetError("the bucket hung up")


def test_lost_connection_to_worker_is_told_as_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the kernel kills it while it hands a batch over."""
    batches = open_loader()
    next(batches)

    def reset(*_: Any) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr("multiprocessing.resource_sharer._resource_sharer.get_connection", reset)
    with pytest.raises(RuntimeError, match="DataLoader worker exited unexpectedly"):
        list(batches)


def test_lost_connection_of_data_set_keeps_its_words() -> None:
    batches = iter(SteadyLoader(Failing(), num_workers=1, worker_init_fn=init_worker))
    with pytest.raises(ConnectionResetError, match="the bucket hung up"):
        next(batches)
