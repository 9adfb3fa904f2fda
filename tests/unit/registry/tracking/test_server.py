"""A tracking server that does not answer is recognized and left after a single attempt."""

import socket

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.hooks import ProjectHooks
from clips_pipeline.registry.tracking.server import (
    TrackingUnavailableError,
    is_unavailable,
    single_attempt,
    unavailable_message,
)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL, with a password, of a port without a listener."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"


def test_an_unavailable_server_is_distinguished_from_other_errors(nobody: str) -> None:
    with single_attempt(), pytest.raises(MlflowException) as caught:
        MlflowClient(nobody).get_run("0" * 32)
    assert is_unavailable(caught.value)
    wrapped = RuntimeError("node failed")
    wrapped.__cause__ = caught.value
    assert is_unavailable(wrapped)
    assert is_unavailable(TrackingUnavailableError("gone"))
    assert not is_unavailable(MlflowException("no such run"))
    assert not is_unavailable(None)


def test_a_run_whose_server_stops_ends_with_one_message(
    store: str, nobody: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.start_run()
    mlflow.set_tracking_uri(nobody)
    # With MLflow's own retries the test would take minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    hook = ProjectHooks().on_pipeline_error(TrackingUnavailableError("gone"))
    with pytest.raises(SystemExit) as ended:
        next(hook)
    assert ended.value.code == 1
    assert mlflow.active_run() is None
    (record,) = [record for record in caplog.records if record.name.startswith("clips_pipeline.")]
    assert record.getMessage() == unavailable_message()
    assert "secret" not in record.getMessage()
    assert "the same command" in record.getMessage()
