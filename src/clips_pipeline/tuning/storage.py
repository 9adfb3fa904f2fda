"""Where a study is kept, and the lock under which trials are handed out: SQLite, a journal file, or PostgreSQL."""

import fcntl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from clips_pipeline.config import ConfigError
from clips_pipeline.tuning.config import StudyStorageConfig, study_address

_POLL_SECONDS = 0.05
_DRIVER = "postgresql+psycopg"


@dataclass(frozen=True)
class StudyStorage:
    """An open storage.

    Attributes:
        backend: Optuna's.
        claim: a lock that one process at a time holds, on all machines that share the storage.
        shown: its address for people, without a password; `optuna-dashboard` takes it.
        across_machines: whether trials of other machines may be in it.
        engines: whose connections it holds.
    """

    backend: BaseStorage
    claim: Callable[[], AbstractContextManager[None]]
    shown: str
    across_machines: bool = False
    engines: tuple[sqlalchemy.Engine, ...] = ()

    def close(self) -> None:
        """End its connections."""
        if isinstance(self.backend, RDBStorage):
            self.backend.remove_session()
        for engine in self.engines:
            engine.dispose()


def _address(config: StudyStorageConfig, folder: Path, credentials: Mapping[str, Any]) -> str:
    if config.kind == "postgresql":
        return _url(credentials).render_as_string(hide_password=True)
    return study_address(config.kind, folder)


def open_storage(
    config: StudyStorageConfig, study_name: str, folder: Path, credentials: Mapping[str, Any]
) -> StudyStorage:
    """Open the storage; files are made in `folder`, tables where they are missing.

    Args:
        config: kind and time-outs.
        study_name: the lock's.
        folder: of the search; it must be there.
        credentials: `url` for PostgreSQL.

    Raises:
        ConfigError: no or wrong credentials, a server that does not answer, a file that cannot be opened.
    """
    shown = _address(config, folder, credentials)
    if config.kind == "postgresql":
        return _postgresql(config, study_name, credentials, shown)

    def claim() -> AbstractContextManager[None]:
        return _file_lock(folder / "claim.lock", config.timeout_s)

    try:
        # Tables are made by one process; another that starts meanwhile finds them.
        with claim():
            if config.kind == "journal":
                return StudyStorage(JournalStorage(JournalFileBackend(shown)), claim, shown)
            # A process that waits for another's commit is no error.
            wait = {"connect_args": {"timeout": config.timeout_s}}
            backend = RDBStorage(shown, engine_kwargs=wait)
            return StudyStorage(backend, claim, shown, engines=(backend.engine,))
    except (OSError, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        raise ConfigError(_out_of_reach(shown, error)) from None


def _postgresql(
    config: StudyStorageConfig, study_name: str, credentials: Mapping[str, Any], shown: str
) -> StudyStorage:
    url = _url(credentials)
    # A connection that a restarted server has closed is replaced before it is used.
    options = {"connect_args": {"connect_timeout": max(1, int(config.timeout_s))}, "pool_pre_ping": True}
    engine = sqlalchemy.create_engine(url, **options)
    key = zlib.crc32(f"clips-pipeline/{study_name}".encode())

    @contextmanager
    def claim() -> Iterator[None]:
        with engine.connect() as connection, connection.begin():
            limit = sqlalchemy.text(f"SET LOCAL lock_timeout = {int(config.timeout_s * 1000)}")
            connection.execute(limit)
            # Of the transaction: a process that dies lets go.
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield

    try:
        with claim():
            backend = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        engine.dispose()
        raise ConfigError(_out_of_reach(shown, error)) from None
    return StudyStorage(backend, claim, shown, across_machines=True, engines=(backend.engine, engine))


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


def _out_of_reach(shown: str, error: Exception) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return (
        f"search.storage: {shown} is out of reach ({first}); start the server or mend its address, or choose another "
        "search.storage.kind"
    )


@contextmanager
def _file_lock(path: Path, patience_s: float) -> Iterator[None]:
    with path.open("a") as file:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"{path}: another process has held the study for {patience_s:.0f} s; end it, or raise "
                        "search.storage.timeout_s"
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield


def quiet_optuna() -> None:
    """Optuna's own log lines tell what ours do."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
