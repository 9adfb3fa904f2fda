"""The tracking server or the SQLite file in its place: how long it is waited for, its pages, and who makes the database.

MLflow makes its tables in many steps. Two processes that begin in a new project each make the same ones, and both fail; a
process that is killed meanwhile leaves tables that MLflow can neither use nor complete. So one process at a time makes them.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnectionError
from requests.exceptions import Timeout

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10
_SQLITE = "sqlite:///"
# Of `mlflow ui`, where the tracking is no server that has pages.
_LOCAL_UI = "http://127.0.0.1:5000"


class TrackingUnavailableError(Exception):
    """The tracking server has not answered in time. What it was to get is kept, and sent by the next start."""


@contextmanager
def single_attempt() -> Iterator[None]:
    """MLflow's client would try again for minutes; meanwhile nobody would follow the training."""
    settings = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0, MLFLOW_HTTP_REQUEST_TIMEOUT: _REQUEST_SECONDS}
    before = {setting: setting.get_raw() for setting in settings}
    for setting, value in settings.items():
        setting.set(value)
    try:
        yield
    finally:
        for setting, value in before.items():
            if value is None:
                setting.unset()
            else:
                setting.set(value)


def is_unavailable(error: BaseException | None) -> bool:
    """Whether an error says that the server does not answer."""
    while error is not None:
        if isinstance(error, TrackingUnavailableError | NoConnectionError | Timeout):
            return True
        if isinstance(error, MlflowException) and error.message.startswith("API request to http"):
            return True
        error = error.__cause__ or error.__context__
    return False


def unavailable_message() -> str:
    """For the user: which server, and the remedy."""
    uri = mlflow.get_tracking_uri()
    return (
        f"MLflow at {web_url(uri) or uri} does not answer. What is trained is kept; the same command goes on from there "
        "and sends what is missing. Start the server, or name another one in conf/<env>/mlflow.yml"
    )


@contextmanager
def exit_if_unavailable() -> Iterator[None]:
    """Where the server is away, end with one message, and wait for it no more.

    Raises:
        SystemExit: it is; the message has been shown.
    """
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.error("%s", unavailable_message())
        # At exit MLflow would try for minutes to close the active runs.
        with single_attempt():
            while mlflow.active_run():
                with suppress(MlflowException):
                    mlflow.end_run("KILLED")
        raise SystemExit(1) from None


def web_url(tracking_uri: str) -> str | None:
    """Where a tracking server has its pages, without user and password; None where it is no server."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def ui_command_or_url(tracking_uri: str) -> str:
    """The address of a tracking server, or the command that serves a store of another kind; a password is hidden."""
    server = web_url(tracking_uri)
    if server is not None:
        return server
    parts = urlsplit(tracking_uri)
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        tracking_uri = tracking_uri.replace(parts.netloc, f"{user.partition(':')[0]}:***@{host}", 1)
    return f".venv/bin/mlflow ui --backend-store-uri {tracking_uri} --workers 1"


def run_url(experiment: str, run_id: str) -> str:
    """Of a run."""
    return f"{_base_url()}/#/experiments/{experiment}/runs/{run_id}"


def version_url(model: str, version: int) -> str:
    """Of a registered version."""
    return f"{_base_url()}/#/models/{model}/versions/{version}"


def _base_url() -> str:
    return web_url(mlflow.get_tracking_uri()) or _LOCAL_UI


@contextmanager
def database_creation_lock(uri: str, experiment: str) -> Iterator[None]:
    """Hold a file lock beside the database while the body makes it; a database that is whole needs none.

    Args:
        uri: of the tracking store; another kind than SQLite's file is left to MLflow.
        experiment: its row is the last thing that the body makes.
    """
    file = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or ":memory:" in uri or _count_experiments(file, experiment):
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists() and not _count_experiments(file):
            # Not even the experiment "Default", the first row there is: no run can have been written.
            log.warning("%s: an earlier start was killed while it made this database; it is made again", file)
            for part in (file, *(Path(f"{file}{end}") for end in ("-journal", "-wal", "-shm"))):
                part.unlink(missing_ok=True)
        yield


def _count_experiments(file: Path, name: str | None = None) -> int:
    """How many experiments there are, or how many of this name; 0 without such a table."""
    if not file.is_file():
        return 0
    where, values = ("", ()) if name is None else (" WHERE name = ?", (name,))
    try:
        with closing(sqlite3.connect(file, timeout=60)) as connection:
            found: int = connection.execute(f"SELECT COUNT(*) FROM experiments{where}", values).fetchone()[0]  # noqa: S608
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        raise
    return found
