"""Send the event log to the MLflow run in batches, each point once, without loss while the server is down."""

import json
import logging
import math
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.io.disk_errors import write_text
from clips_pipeline.registry.tracking.code_changes import CodeChange, add_code_changes
from clips_pipeline.registry.tracking.runs import mlflow_key
from clips_pipeline.registry.tracking.server import TrackingUnavailableError, single_attempt, unavailable_message
from clips_pipeline.registry.tracking.surroundings import log_surroundings
from clips_pipeline.training.events.event_log import HISTORY, STEP_NUMBERS, Event, EventReader

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
# MLflow's limit per request.
MAX_BATCH = 1000
# How long to wait at the end of a training for a server that does not answer.
FINAL_WAIT_SECONDS = 60.0


class RunTracker(AbstractContextManager["RunTracker"]):
    """Sends events to the active MLflow run as metrics.

    The position is stored beside the event log (`mlflow_run.json`: run id, byte offset, last steps), so that a later
    start of the same training continues the same run without sending a point twice.

    Args:
        run_folder: the training's folder.
        run_id: the run to write to; by default the active one, which Kedro opened.
    """

    def __init__(self, run_folder: Path, run_id: str | None = None):
        run_folder.mkdir(parents=True, exist_ok=True)
        self._file = run_folder / "mlflow_run.json"
        active = mlflow.active_run()
        self.run_id: str | None = run_id or (active.info.run_id if active else None)
        self.skipped: Counter[str] = Counter()
        self._client = MlflowClient()
        self._pending: list[Metric] = []
        self._files: list[str] = []
        self._code_changes: list[CodeChange] = []
        self._start: Event | None = None
        self._history_changed = False
        self._reader: EventReader | None = None
        self._flushed_at = time.monotonic()
        self._unavailable = False

    def reader(self, events: Path) -> EventReader:
        """Return a reader of `events` that starts after what this MLflow run already has."""
        saved = json.loads(self._file.read_text()) if self._file.is_file() else {}
        if saved and saved["run_id"] == self.run_id:
            self._reader = EventReader(events, saved["offset"], saved["last_steps"])
        else:
            self._reader = EventReader(events)
        self._save()
        return self._reader

    def record(self, event: Event) -> None:
        """Queue the numbers of one event. The queue is sent every few seconds."""
        stamp = int(event["time"] * 1000)
        for name, value in event_metrics(event).items():
            # MLflow's run page breaks on NaN, and the training stops with an error event in that case.
            if math.isfinite(value):
                self._pending.append(Metric(name, value, stamp, event.get("step", 0)))
        if event["kind"] == "changed" and "code" in event["values"]:
            before, now = event["values"]["code"]
            self._code_changes.append(CodeChange(event["step"], before, now))
        if event["kind"] == "captions":
            self._files += event["files"]
        if event["kind"] == "start":
            self._start = event
        self._history_changed |= event["kind"] in HISTORY
        if event["kind"] == "skips":
            self.skipped = Counter(event["counts"])
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the queue. If the server does not answer, keep the queue and log one warning."""
        self._flushed_at = time.monotonic()
        if self.run_id is None:
            self._pending.clear()
            self._files.clear()
            self._code_changes.clear()
            self._history_changed = False
            return
        try:
            with single_attempt():
                while self._pending:
                    # A batch that is sent twice because the response was lost is stored once.
                    self._client.log_batch(self.run_id, metrics=self._pending[:MAX_BATCH])
                    del self._pending[:MAX_BATCH]
                while self._files:
                    if Path(self._files[0]).is_file():
                        self._client.log_artifact(self.run_id, self._files[0], "captions")
                    del self._files[0]
                if self._code_changes:
                    add_code_changes(self._client, self.run_id, self._code_changes)
                    self._code_changes.clear()
                if self._history_changed:
                    log_surroundings(self._client, self.run_id, self._file.parent, self._start)
                    self._history_changed = False
        except (MlflowException, OSError) as error:
            if not self._unavailable:
                log.warning("MLflow does not answer (%s); training continues, and metrics stay in the event log", error)
            self._unavailable = True
            return
        self._unavailable = False
        self._save()

    def _save(self) -> None:
        if self._reader is None or self.run_id is None:
            return
        state = {"run_id": self.run_id, "offset": self._reader.offset, "last_steps": self._reader.last_steps}
        write_text(self._file, json.dumps(state))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send the rest, also when the training failed. After a successful one, wait for a server that does not answer.

        Raises:
            TrackingUnavailableError: the training succeeded, and the server did not answer in time.
        """
        self.flush()
        until = time.monotonic() + (FINAL_WAIT_SECONDS if kind is None else 0.0)
        while (self._pending or self._history_changed) and time.monotonic() < until:
            time.sleep(1.0)
            self.flush()
        if self._pending:
            log.warning("%d metric values are not in MLflow yet; run the same command to send them", len(self._pending))
            if kind is None:
                raise TrackingUnavailableError(unavailable_message())


def event_metrics(event: Event) -> dict[str, float]:
    """Return the metrics of an event by their MLflow names."""
    if event["kind"] == "step":
        losses = {f"train/loss/{name}": value for name, value in event["losses"].items()}
        others = {f"train/{name}": event[name] for name in STEP_NUMBERS if name in event}
        return {**losses, **others}
    if event["kind"] == "evaluation":
        return {mlflow_key(f"validation/{name}"): value for name, value in event["metrics"].items()}
    if event["kind"] == "skips":
        return {mlflow_key(f"skipped/{reason}"): float(count) for reason, count in event["counts"].items()}
    return {}
