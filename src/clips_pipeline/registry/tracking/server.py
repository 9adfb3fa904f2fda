"""The tracking server or SQLite database: time-outs, URLs, and creation of the database by one process at a time.

MLflow creates its tables in many steps. Two processes that start in a new project would create the same tables, and
both would fail; a process killed in between leaves tables that MLflow can neither use nor complete.
"""

import logging
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnectionError
from requests.exceptions import Timeout

from clips_pipeline.io.redact import redact

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10
_SQLITE = "sqlite:///"
# Default address of `mlflow ui`, used where the tracking store has no web server.
_LOCAL_UI = "http://127.0.0.1:5000"


class TrackingUnavailableError(Exception):
    """The tracking server did not answer in time. Unsent data is kept; the next start sends it."""


@contextmanager
def single_attempt() -> Iterator[None]:
    """Disable MLflow's retries, which take minutes, during which the training would not be monitored."""
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
    """Return whether an error means that the server does not answer."""
    while error is not None:
        if isinstance(error, TrackingUnavailableError | NoConnectionError | Timeout):
            return True
        if isinstance(error, MlflowException) and error.message.startswith("API request to http"):
            return True
        error = error.__cause__ or error.__context__
    return False


def unavailable_message() -> str:
    """Return the message for the user: the server's URL and the remedy."""
    uri = mlflow.get_tracking_uri()
    return (
        f"MLflow at {web_url(uri) or redact(uri)} does not answer. The training's state is kept. Start the server, or set another "
        "one in conf/<env>/mlflow.yml; the same command then resumes and sends the missing metrics"
    )


@contextmanager
def exit_if_unavailable() -> Iterator[None]:
    """Exit with one message where the server does not answer, without waiting for it any longer.

    Raises:
        SystemExit: the server does not answer; the message has been logged.
    """
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.error("%s", unavailable_message())
        # MLflow would otherwise retry for minutes at exit to close the active runs.
        with single_attempt():
            while mlflow.active_run():
                with suppress(MlflowException):
                    mlflow.end_run("KILLED")
        raise SystemExit(1) from None


def web_url(tracking_uri: str) -> str | None:
    """Return the URL of a tracking server's pages, without user and password; None where it is not a server."""
    try:
        parts = urlsplit(tracking_uri)
    except ValueError:  # such as a bracket in a password
        return None
    if parts.scheme not in ("http", "https"):
        return None
    # A password may contain a slash, so that the path begins in it.
    rest = f"{parts.netloc}{parts.path}".rpartition("@")[2]
    return f"{parts.scheme}://{rest.rstrip('/')}"


def ui_command_or_url(tracking_uri: str) -> str:
    """Return the URL of a tracking server, or the command that serves another store, without user and password."""
    server = web_url(tracking_uri)
    if server is not None:
        return server
    return f".venv/bin/mlflow ui --backend-store-uri {shlex.quote(redact(tracking_uri))} --workers 1"


def run_url(experiment: str, run_id: str) -> str:
    """Return the URL of a run's page."""
    return f"{_base_url()}/#/experiments/{experiment}/runs/{run_id}"


def version_url(model: str, version: int) -> str:
    """Return the URL of a registered version's page."""
    return f"{_base_url()}/#/models/{model}/versions/{version}"


def _base_url() -> str:
    return web_url(mlflow.get_tracking_uri()) or _LOCAL_UI


@contextmanager
def database_creation_lock(uri: str, experiment: str) -> Iterator[None]:
    """Hold a file lock while the body creates the database. A complete database needs no lock.

    Args:
        uri: URI of the tracking store; stores other than a SQLite file are not locked.
        experiment: name of the experiment whose row the body creates last.
    """
    file = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or ":memory:" in uri or _count_experiments(file, experiment):
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists() and not _count_experiments(file):
            # Without the experiment "Default", the first row that MLflow writes, the database can contain no run.
            log.warning("%s: an earlier start was killed while it created this database; creating it again", file)
            for part in (file, *(Path(f"{file}{end}") for end in ("-journal", "-wal", "-shm"))):
                part.unlink(missing_ok=True)
        yield


def _count_experiments(file: Path, name: str | None = None) -> int:
    """Return the number of experiments, or of those with this name; 0 where the table is missing."""
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
