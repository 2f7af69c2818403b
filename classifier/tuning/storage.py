"""Where a study is kept, and how several drivers share it."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from classifier.errors import ConfigError, RunError
from classifier.masking import masked
from classifier.tuning.trials import DRIVER

log = logging.getLogger(__name__)

# A driver on another host that was silent for so long is taken for dead.
BEAT_SECONDS = 20
_GRACE_SECONDS = 120
_PATIENCE_SECONDS = 600.0
_RETRY_SECONDS = 2.0
_OUTAGES = (StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)

T = TypeVar("T")


class Storage:
    """A storage of Optuna, opened for one driver.

    SQLite belongs to one driver at a time. PostgreSQL and MySQL are shared: what must not happen
    twice happens under a lock of the database, which the database takes back when a driver dies.

    Args:
        url: Of SQLAlchemy, secrets included.
        study_name: The study that this driver works on.
        folder: Of the study; its drivers are known by files there.
        given_up: Whether the user has asked to end, so that nobody waits for a database.

    Raises:
        ConfigError: the storage cannot be opened, or another sweep works on it.
    """

    def __init__(
        self,
        url: str,
        study_name: str,
        folder: Path,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.url = sqlalchemy_url(url)
        self.shown = masked(url)
        self.study_name = study_name
        self.folder = folder
        self.is_shared = self.url.get_backend_name() != "sqlite"
        self.running: set[int] = set()  # Optuna's ids of the trials that this driver runs
        self._given_up = given_up
        self._presence = self._appear()
        self._lock_engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        try:
            with self.locked(), warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.optuna = RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True} if self.is_shared else None,
                    heartbeat_interval=BEAT_SECONDS if self.is_shared else None,
                    grace_period=_GRACE_SECONDS if self.is_shared else None,
                )
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
            self.close()
            raise ConfigError(
                "optuna.storage", f"cannot be opened ({self._without_secret(error)})",
                got=self.shown,
                remedy="Start the database, or correct the URL",
            ) from None  # fmt: skip

    def _appear(self) -> FileLock:
        """Take a lock that the system gives back when this process ends, however it does."""
        if self.is_shared:
            drivers = self.folder / "drivers"
            file = drivers / f"{socket.gethostname()}.{uuid.uuid4().hex[:12]}.lock"
        else:
            database = Path(self.url.database or "study.db")
            file = database.with_name(f".{database.name}.lock")
        lock = FileLock(str(file), timeout=0)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                "optuna.storage", "another sweep is working on this study",
                got=self.shown,
                remedy="Wait for it, or let several share a PostgreSQL storage",
            ) from None  # fmt: skip
        except OSError as error:
            raise ConfigError(
                "optuna.storage", f"no lock can be had beside it ({error})", got=self.shown,
                remedy="Choose a folder that can be written to",
            ) from None  # fmt: skip
        return lock

    @property
    def _driver(self) -> str:
        """This driver's name, unlike any other's."""
        return Path(self._presence.lock_file).name

    def begin(self, trial: optuna.Trial) -> None:
        """Take note that this driver runs a trial, and let other drivers know."""
        if self.is_shared:
            trial.set_user_attr(DRIVER, self._driver)
            self.optuna.record_heartbeat(trial._trial_id)
        self.running.add(trial._trial_id)

    def beat(self) -> None:
        """Tell the other drivers that the trials of this one are alive."""
        if self.is_shared:
            for trial_id in self.running:
                self.optuna.record_heartbeat(trial_id)

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether the driver of a running trial is known to be gone.

        It died before it could give its name where there is none. Where the name is this driver's
        own, of a trial that it does not know of, the database was lost while the trial was begun.
        """
        if trial._trial_id in self.running:
            return False
        driver = trial.user_attrs.get(DRIVER)
        if driver is None or not self.is_shared or driver == self._driver:
            return True
        file = self.folder / "drivers" / driver
        if not driver.startswith(f"{socket.gethostname()}.") or not file.exists():
            return False  # on another machine: its heart beat tells
        try:
            with FileLock(str(file), timeout=0):
                file.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def fail_stale(self, study: optuna.Study) -> None:
        """Fail the running trials of drivers that have been silent for too long."""
        if self.is_shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block no other driver of this study is in such a block."""
        if not self.is_shared:
            yield
            return
        number = int.from_bytes(hashlib.sha256(self.study_name.encode()).digest()[:7], "big")
        backend = self.url.get_backend_name()
        with self._lock_engine.connect() as connection:
            if backend == "postgresql":
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({number})"))
            elif backend in ("mysql", "mariadb"):
                connection.execute(sqlalchemy.text(f"SELECT GET_LOCK('sweep-{number}', 600)"))
            yield  # the lock ends with the connection

    def patiently(self, action: Callable[[], T]) -> T:
        """Do something with the database; when it is out of reach, wait for it.

        Args:
            action: May be repeated.

        Raises:
            RunError: it stayed out of reach.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        told = False
        while True:
            try:
                return action()
            except _OUTAGES as error:
                # A file that is not locked but refuses (a full disk, say) will not come back.
                waits = self.is_shared or "locked" in str(error.__cause__ or error)
                reason = self._without_secret(error)
                if not waits or self._given_up() or time.monotonic() > until:
                    raise RunError(f"the study's storage is out of reach: {reason}") from None
                if not told:
                    log.warning("the study's storage is out of reach (%s); waiting for it", reason)
                    told = True
                time.sleep(_RETRY_SECONDS)

    def _without_secret(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        original = getattr(cause, "orig", None) or cause or error
        text = " ".join(str(original).split())[:300]
        for secret in (self.url.password, self.url.query.get("password")):
            text = text.replace(str(secret), "***") if secret else text
        return text

    def close(self) -> None:
        """Let go of the study."""
        storage = getattr(self, "optuna", None)
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        file = Path(self._presence.lock_file)
        self._presence.release()
        # While a trial of this driver is not told to have ended, the file shows that it is gone.
        if self.is_shared and file.exists() and not self.running:
            os.unlink(file)


def sqlalchemy_url(url: str) -> sqlalchemy.URL:
    """A storage URL in its parts.

    Raises:
        ConfigError: it is no URL of a database that SQLAlchemy knows, or a driver is missing.
    """
    try:
        parsed = sqlalchemy.make_url(url)
        parsed.get_dialect().import_dbapi()
        in_memory = parsed.database in (None, "", ":memory:") or "mode=memory" in url
        if parsed.get_backend_name() == "sqlite" and in_memory:
            raise ConfigError(
                "optuna.storage", "a database in memory is lost with the sweep",
                remedy="Write sqlite:///path/study.db, or null",
            )  # fmt: skip
        if url.partition("://")[2].partition("?")[0].count("@") > 1:
            raise ConfigError(
                "optuna.storage", "the password holds an @", got=masked(url),
                remedy="Write it percent-encoded: %40",
            )  # fmt: skip
    except sqlalchemy.exc.ArgumentError:
        raise ConfigError(
            "optuna.storage", "is no database URL",
            remedy="Write sqlite:///path/study.db or postgresql://host/database, or null",
        ) from None  # fmt: skip
    except ImportError as error:
        raise ConfigError(
            "optuna.storage", f"the database's driver is not installed ({error.name})",
            got=masked(url), remedy=f"pip install {error.name}",
        ) from None  # fmt: skip
    return parsed
