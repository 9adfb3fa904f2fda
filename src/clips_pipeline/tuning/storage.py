"""Where a study is kept, and the lock under which trials are handed out: SQLite, a journal file, or PostgreSQL."""

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
from clips_pipeline.tuning.config import SearchConfig, study_url

log = logging.getLogger(__name__)

_DRIVER = "postgresql+psycopg"


class _Database(RDBStorage):
    """Optuna's, but a server that is away for a moment does not end the thread of heartbeats."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("a heartbeat could not be written (%s)", str(error).splitlines()[0])


@dataclass(frozen=True)
class StudyStorage:
    """An open storage.

    Attributes:
        backend: Optuna's.
        claim: a lock that one process at a time holds, on all machines that share the storage.
        retry: queues a failed trial again, as often as the search allows.
        shown: its address for people, without a password; `optuna-dashboard` takes it.
    """

    backend: BaseStorage
    lock: Callable[[], AbstractContextManager[None]]
    retry: Callable[[optuna.Study, FrozenTrial], None]
    display_url: str

    @property
    def has_heartbeat(self) -> bool:
        """Whether killed processes are noticed: not in a journal, for which Optuna has no heartbeat."""
        return isinstance(self.backend, RDBStorage)

    def record_heartbeat(self, trial: Trial) -> None:
        """The first one, before the lock is released: Optuna's thread may not have come to it."""
        if isinstance(self.backend, RDBStorage):
            self.backend.record_heartbeat(trial._trial_id)

    def close(self) -> None:
        """End its connections."""
        if isinstance(self.backend, RDBStorage):
            self.backend.remove_session()
            self.backend.engine.dispose()


@contextmanager
def ignore_experimental_warnings() -> Iterator[None]:
    """Optuna's heartbeat, its retry and names of metrics warn that they may change; a user cannot act on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(search: SearchConfig, folder: Path, credentials: Mapping[str, Any]) -> StudyStorage:
    """Open the storage; files are made in `folder`, tables where they are missing.

    Args:
        search: kind and time-outs, the study's name, which is the lock's, and how often a trial is retried.
        folder: of the search; it must be there.
        credentials: `url` for PostgreSQL.

    Raises:
        ConfigError: no or wrong credentials, a server that does not answer, a file that cannot be opened.
    """
    config = search.storage
    lock: Callable[[], AbstractContextManager[None]]
    if config.kind == "postgresql":
        address = _url(credentials)
        url, display_url = (address.render_as_string(hide_password=hidden) for hidden in (False, True))
        # A connection that a restarted server has closed is replaced before it is used.
        options = {"connect_args": {"connect_timeout": max(1, int(config.timeout_s))}, "pool_pre_ping": True}
        lock = partial(_server_lock, url, search.study_name, config.timeout_s)
    else:
        url = display_url = study_url(config.kind, folder)
        # A process that waits for another's commit is no error.
        options = {"connect_args": {"timeout": config.timeout_s}}
        lock = partial(_file_lock, folder / "claim.lock", config.timeout_s)
    try:
        # Tables are made by one process; another that starts meanwhile finds them.
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
    remedy = "conf/local/credentials.yml needs search: {url: postgresql://USER:PASSWORD@HOST/DATABASE}"
    text = credentials.get("url") if isinstance(credentials, Mapping) else None
    if not isinstance(text, str):
        raise ConfigError(f"search.storage.kind is postgresql, and no address was found; {remedy}")
    try:
        url = sqlalchemy.make_url(text)
    except sqlalchemy.exc.ArgumentError:
        # The text may hold a password, so it is not shown.
        raise ConfigError(f"credentials.search.url is no address; {remedy}") from None
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"credentials.search.url: {url.drivername} is not postgresql; {remedy}")
    return url.set(drivername=_DRIVER)


def _unreachable_message(display_url: str, error: Exception) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return (
        f"search.storage: {display_url} is out of reach ({first}); start the server or mend its address, or choose another "
        "search.storage.kind"
    )


@contextmanager
def _server_lock(url: str, study_name: str, timeout_s: float) -> Iterator[None]:
    """An advisory lock of PostgreSQL, on a connection of its own."""
    connect_args = {"connect_timeout": max(1, int(timeout_s))}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=connect_args)
    with engine.connect() as connection, connection.begin():
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = {int(timeout_s * 1000)}"))
        # Of the transaction: a process that dies lets go.
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
            f"{path}: another process has held the study for {timeout_s:.0f} s; end it, or raise search.storage.timeout_s"
        ) from None
    try:
        yield
    finally:
        lock.release()


def silence_optuna() -> None:
    """Optuna's own log lines tell what ours do."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
