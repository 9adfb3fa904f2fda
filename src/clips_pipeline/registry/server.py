"""A tracking server that does not answer: how long to wait for it, and what to say."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mlflow
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnectionError
from requests.exceptions import Timeout

from clips_pipeline.registry.web_pages import web_address

_REQUEST_SECONDS = 10


class TrackingAwayError(Exception):
    """The tracking server has not answered in time. What it was to get is kept, and sent by the next start."""


@contextmanager
def one_attempt() -> Iterator[None]:
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


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that the server does not answer."""
    while error is not None:
        if isinstance(error, TrackingAwayError | NoConnectionError | Timeout):
            return True
        if isinstance(error, MlflowException) and error.message.startswith("API request to http"):
            return True
        error = error.__cause__ or error.__context__
    return False


def away_message() -> str:
    """For the user: which server, and the remedy."""
    uri = mlflow.get_tracking_uri()
    return (
        f"MLflow at {web_address(uri) or uri} does not answer. What is trained is kept; the same command goes on from there "
        "and sends what is missing. Start the server, or name another one in conf/<env>/mlflow.yml"
    )


def leave_runs() -> None:
    """Forget the active runs, with one attempt to close them: at exit MLflow would try for minutes."""
    with one_attempt():
        while mlflow.active_run():
            with suppress(MlflowException):
                mlflow.end_run("KILLED")
