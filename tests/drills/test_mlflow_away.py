"""MLflow's server is unavailable during a run: no point is lost, none is stored twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from tests.integration.conftest import SpecOf
from tests.servers import free_port, wait_for

from clips_pipeline.registry.tracking import run_tracking
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.tracking.server import TrackingUnavailableError
from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import launch

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


class Server:
    """`mlflow server` on loopback with a SQLite store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.store, self.address = f"sqlite:///{folder / 'mlflow.db'}", f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(self.answers, 120.0)

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.address}/health", timeout=5) as answer:  # noqa: S310  # loopback
                return answer.status == 200
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    before = mlflow.get_tracking_uri()
    server.start()
    mlflow.set_tracking_uri(server.address)
    yield server
    mlflow.set_tracking_uri(before)
    server.stop()


def test_a_server_that_returns_has_every_point_once(
    server: Server, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_tracking, "FLUSH_SECONDS", 0.2)
    spec = spec_of("run", samples=60 * 8, every={"log": 1, "evaluate": 20, "checkpoint": 1_000})
    run = MlflowClient().create_run("0")
    with RunTracker(Path(spec.run_folder), run.info.run_id) as tracker:

        def on_event(event: Event) -> None:
            step = event["step"] if event["kind"] == "step" else None
            if step == 10 or step == 50:
                server.stop()
            if step == 40:
                server.start()
                tracker.flush()
                assert not tracker._pending
            tracker.record(event)

        assert launch(spec, on_event, tracker.reader(spec.events)).finished
        tracker.flush()
        assert tracker._pending
        # One per outage.
        assert caplog.text.count("MLflow does not answer") == 2
        server.start()
    assert_every_point_once(server, run.info.run_id, read_all(spec.events))


def test_points_that_a_killed_process_did_not_record_are_sent_again_and_stored_once(
    server: Server, spec_of: SpecOf
) -> None:
    spec = spec_of("run")
    run = MlflowClient().create_run("0")
    assert launch(spec, lambda event: None).finished
    for _ in range(2):
        with RunTracker(Path(spec.run_folder), run.info.run_id) as tracker:
            for event in tracker.reader(spec.events).read():
                tracker.record(event)
        # As if it had been killed after sending them and before recording that.
        (Path(spec.run_folder) / "mlflow_run.json").unlink()
        time.sleep(0.01)
    assert_every_point_once(server, run.info.run_id, read_all(spec.events))


def test_with_an_unavailable_server_the_run_ends_and_the_next_start_sends_everything(
    server: Server, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tracking, "FINAL_WAIT_SECONDS", 2.0)
    spec = spec_of("run")
    run = MlflowClient().create_run("0")
    tracker = RunTracker(Path(spec.run_folder), run.info.run_id)

    def train_without_server() -> None:
        with tracker:
            server.stop()
            assert launch(spec, tracker.record, tracker.reader(spec.events)).finished

    with pytest.raises(TrackingUnavailableError, match="does not answer"):
        train_without_server()
    server.start()
    with RunTracker(Path(spec.run_folder), run.info.run_id) as again:
        for event in again.reader(spec.events).read():
            again.record(event)
    assert_every_point_once(server, run.info.run_id, read_all(spec.events))


def assert_every_point_once(server: Server, run_id: str, events: list[Event]) -> None:
    client = MlflowClient(server.store)
    for metric, kind in (("train/loss/total", "step"), ("validation/mean_recall_at_1", "evaluation")):
        steps = sorted(point.step for point in client.get_metric_history(run_id, metric))
        assert steps == [event["step"] for event in events if event["kind"] == kind]
