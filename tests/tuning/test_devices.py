"""The pool of GPUs, counted without touching one."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier.errors import ConfigError
from classifier.tuning.devices import pool_of, showing


@pytest.fixture(autouse=True)
def nothing_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_pool_is_what_was_asked_for() -> None:
    assert pool_of(None) == ()
    assert pool_of((0, 2)) == (0, 2)


def test_auto_takes_what_the_environment_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert pool_of("auto") == (0, 1)
    assert showing(1) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}


def test_auto_asks_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf 'GPU 0: H200 (UUID: x)\\nGPU 1: H200 (UUID: y)\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert pool_of("auto") == (0, 1)
    assert showing(1) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_auto_is_refused_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"optuna\.devices: no GPU was found, got 'auto'"):
        pool_of("auto")


def test_nothing_is_hidden_without_a_pool() -> None:
    assert showing(None) == {}
