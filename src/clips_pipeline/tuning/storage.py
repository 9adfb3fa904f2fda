"""Study storage (SQLite, journal file or PostgreSQL) and the lock under which trials are started."""

import logging
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial

from clips_pipeline.config import ConfigError
from clips_pipeline.io.redact import redact
from clips_pipeline.tuning.config import SearchConfig, study_url

log = logging.getLogger(__name__)

_DRIVER = "postgresql+psycopg"


class _Database(RDBStorage):
    """Optuna's storage that survives a heartbeat which cannot be written, for example while the server restarts."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("a heartbeat could not be written (%s)", str(error).splitlines()[0])


@dataclass(frozen=True)
class StudyStorage:
    """An open storage.

    Attributes:
        backend: Optuna's storage.
        lock: context manager of a lock that one process holds at a time, across all machines that share the storage.
        retry: queues a failed trial again, at most as often as the search allows.
        display_url: its URL without user and password; the argument of `optuna-dashboard`.
    """

    backend: BaseStorage
    lock: Callable[[], AbstractContextManager[None]]
    retry: Callable[[optuna.Study, FrozenTrial], None]
    display_url: str

    @property
    def has_heartbeat(self) -> bool:
        """Whether killed processes are detected. Optuna has no heartbeat for journal storage."""
        return isinstance(self.backend, RDBStorage)

    def record_heartbeat(self, trial: Trial) -> None:
        """Write the first heartbeat of a trial before the lock is released; Optuna's thread may not have written one yet."""
        if isinstance(self.backend, RDBStorage):
            self.backend.record_heartbeat(trial._trial_id)

    def close(self) -> None:
        """Close the connections."""
        if isinstance(self.backend, RDBStorage):
            self.backend.remove_session()
            self.backend.engine.dispose()


@contextmanager
def ignore_experimental_warnings() -> Iterator[None]:
    """Hide Optuna's warnings about its experimental heartbeat, retry and metric names; users cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(search: SearchConfig, folder: Path, credentials: Mapping[str, Any]) -> StudyStorage:
    """Open the storage. Missing files are created in `folder`, missing tables in the database.

    Args:
        search: gives the storage's kind and time-outs, the study's name (which names the lock), and the number of
            retries.
        folder: the search's folder; it must exist.
        credentials: `url` for PostgreSQL.

    Raises:
        ConfigError: missing or wrong credentials, a server that does not answer, or a file that cannot be opened.
    """
    config = search.storage
    lock: Callable[[], AbstractContextManager[None]]
    if config.kind == "postgresql":
        address = _url(credentials)
        url = address.render_as_string(hide_password=False)
        display_url = redact(url)
        # Replace a connection that a restarted server has closed before it is used.
        options = {"connect_args": {"connect_timeout": max(1, int(config.timeout_s))}, "pool_pre_ping": True}
        lock = partial(_server_lock, url, search.study_name, config.timeout_s)
    else:
        url = display_url = study_url(config.kind, folder)
        # Wait for another process's commit instead of failing.
        options = {"connect_args": {"timeout": config.timeout_s}}
        lock = partial(_file_lock, folder / "study.lock", config.timeout_s)
    try:
        # One process creates the tables; a process that starts at the same time waits for them.
        with lock(), ignore_experimental_warnings():
            retry = RetryHeartbeatStaleTrialCallback(search.retries, inherit_intermediate_values=True)
            backend: BaseStorage
            if config.kind == "journal":
                backend = JournalStorage(JournalFileBackend(url))
            else:
                backend = _Database(
                    url,
                    options,
                    heartbeat_interval=config.heartbeat_s,
                    grace_period=config.grace_s,
                    heartbeat_stale_trial_callback=retry,
                )
    except (OSError, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        raise ConfigError(_unreachable_message(display_url, error)) from None
    return StudyStorage(backend, lock, retry, display_url)


def _url(credentials: Mapping[str, Any]) -> sqlalchemy.URL:
    remedy = "conf/local/credentials.yml needs search: {url: …} with the server's URL (docs/how-to/search.md)"
    text = credentials.get("url") if isinstance(credentials, Mapping) else None
    if not isinstance(text, str):
        raise ConfigError(f"search.storage.kind: postgresql needs a URL, and the credentials have none; {remedy}")
    try:
        url = sqlalchemy.make_url(text)
    except sqlalchemy.exc.ArgumentError:
        # The text may contain a password, so the message does not show it.
        raise ConfigError(f"credentials.search.url: not a database URL; {remedy}") from None
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"credentials.search.url: {url.drivername} is not postgresql; {remedy}")
    return url.set(drivername=_DRIVER)


def _unreachable_message(display_url: str, error: Exception) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return (
        f"search.storage: {display_url} cannot be reached ({first}); start the server, correct its URL, or choose another "
        "search.storage.kind"
    )


@contextmanager
def _server_lock(url: str, study_name: str, timeout_s: float) -> Iterator[None]:
    """Hold an advisory lock of PostgreSQL on a connection of its own."""
    connect_args = {"connect_timeout": max(1, int(timeout_s))}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=connect_args)
    with engine.connect() as connection, connection.begin():
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = {int(timeout_s * 1000)}"))
        # A transaction-level lock: the server releases it when the process dies.
        key = zlib.crc32(f"clips-pipeline/{study_name}".encode())
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield


@contextmanager
def _file_lock(path: Path, timeout_s: float) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout_s)
    except Timeout:
        raise ConfigError(
            f"{path}: another process held this lock for {timeout_s:.0f} s; end it, or raise search.storage.timeout_s"
        ) from None
    try:
        yield
    finally:
        lock.release()


def silence_optuna() -> None:
    """Hide Optuna's own log lines, which repeat ours."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
