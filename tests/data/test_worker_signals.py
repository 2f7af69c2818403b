from __future__ import annotations

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
        child.kill()


def test_workers_go_on_when_somebody_else_terminates_them() -> None:
    batches = open_loader()
    found = [int(next(batches))]
    for _ in range(3):
        for worker in batches._workers:
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
    # As multiprocessing does when the program ends; it then waits without a limit.
    time.sleep(0.2)
    for worker in batches._workers:
        worker.terminate()
    for worker in batches._workers:
        worker.join(timeout=5)
    assert [worker.exitcode for worker in batches._workers] == [0, 0]


def test_loader_leaves_the_signals_of_its_own_process_alone() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    next(open_loader())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
