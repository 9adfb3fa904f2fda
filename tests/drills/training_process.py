"""A training in a separate process, as under `kedro run`: `python -m tests.drills.training_process SPEC.json [MLFLOW]`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.conftest import REPOSITORY

from clips_pipeline.config import ConfigError
from clips_pipeline.io.disk_errors import CannotWriteError
from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.heartbeat import read_heartbeats
from clips_pipeline.training.launch.interrupt import INTERRUPTED
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.launch.result import TrainingInterruptedError, TrainingResult
from clips_pipeline.training.run_spec import RunSpec, load_spec


class TrainingProcess:
    """The launcher of a training as a child process."""

    def __init__(self, spec: RunSpec, name: str = "spec.json", tracking: str | None = None) -> None:
        self.spec = spec
        folder = Path(spec.run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        spec.save(path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills.training_process", str(path), *([tracking] if tracking else [])],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, seconds: float = 240.0) -> tuple[int, str]:
        """Wait for the end; return exit code and output."""
        printed, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, printed

    def ranks(self) -> list[int]:
        """Return the processes of the ranks that have written a heartbeat, without those of an earlier start."""
        own = set(tree(self.process.pid))
        return [heartbeat.pid for heartbeat in read_heartbeats(Path(self.spec.run_folder)) if heartbeat.pid in own]

    def trained(self) -> int:
        """Return the last logged step."""
        return max((event["step"] for event in read_all(self.spec.events) if event["kind"] == "step"), default=0)

    def wait_for_step(self, step: int, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while self.trained() < step:
            assert time.monotonic() < until, f"step {step} has not come"
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)


def tree(process: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*"):
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def kill_tree(process: int, sign: signal.Signals = signal.SIGKILL) -> None:
    """Kill a process tree as when a machine loses power: all are stopped first, so that none notices the end of another."""
    found = list(tree(process))
    if sign == signal.SIGKILL:
        for one in found:
            send(one, signal.SIGSTOP)
        found = list(tree(process))
    for one in found:
        send(one, sign)


def send(process: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, sign)


def main(path: str, tracking: str | None = None) -> int:
    spec = load_spec(Path(path))
    try:
        return 0 if (launch_tracked(spec, tracking) if tracking else launch(spec, ignore)).finished else 3
    except TrainingInterruptedError as error:
        print(error)
        return INTERRUPTED
    except (TrainingFailedError, CannotWriteError, ConfigError) as error:
        print(error)
        return 1


def ignore(event: Event) -> None:
    """Do nothing: the tests read the event log."""


def launch_tracked(spec: RunSpec, tracking: str) -> TrainingResult:
    """Launch with metrics sent to MLflow, as the training node does; continue the run of an earlier start, if there is one."""
    import mlflow

    from clips_pipeline.pipelines.train.nodes import interrupted_run_id
    from clips_pipeline.registry.tracking.run_tracking import RunTracker

    mlflow.set_tracking_uri(tracking)
    with mlflow.start_run(run_id=interrupted_run_id(spec)), RunTracker(Path(spec.run_folder)) as tracker:
        return launch(spec, tracker.record, tracker.reader(spec.events))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
