"""The storage of a study: refused in words, waited for where that helps."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from classifier.errors import ConfigError, RunError
from classifier.tuning.storage import Storage


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "a database in memory is lost with the sweep"),
        ("sqlite:///:memory:", "a database in memory is lost with the sweep"),
        ("nonsense://host/db", "is no database URL"),
        (
            "postgresql://me:sec@ret@host/db",
            "the password holds an @, got 'postgresql://me:***@host/db'",
        ),
        ("sqlite:////proc/nowhere/study.db", "no lock can be had beside it"),
    ],
)
def test_storage_is_refused_in_words(url: str, message: str, workplace: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Storage(url, "study", workplace)
    assert message in str(caught.value)
    assert "sec@ret" not in str(caught.value)


def test_full_disk_is_not_waited_for(workplace: Path) -> None:
    def write() -> None:
        raise sqlalchemy.exc.OperationalError(
            "INSERT", {}, sqlite3.OperationalError("database or disk is full")
        )

    storage = Storage("sqlite:///study.db", "study", workplace)
    with pytest.raises(RunError, match="database or disk is full"):
        storage.patiently(write)
    storage.close()
