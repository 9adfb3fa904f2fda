"""Starts a training in a process of its own, as `kedro run` is one: `python -m tests.drills.starting SPEC.json [MLFLOW]`."""

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
from clips_pipeline.training.launch.exit_status import TrainingInterruptedError, TrainingResult
from clips_pipeline.training.launch.heartbeat import read_heartbeats
from clips_pipeline.training.launch.interrupt import INTERRUPTED
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec, load_spec


class Started:
    """The process that follows a training, and what can be seen of it from outside."""

    def __init__(self, spec: RunSpec, name: str = "spec.json", tracking: str | None = None) -> None:
        self.spec = spec
        folder = Path(spec.run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        spec.save(path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills.starting", str(path), *([tracking] if tracking else [])],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, seconds: float = 240.0) -> tuple[int, str]:
        """Exit code and output."""
        printed, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, printed

    def ranks(self) -> list[int]:
        """Processes of the ranks that have told of themselves; those of an earlier start are none of this one's."""
        mine = set(tree(self.process.pid))
        return [sign.pid for sign in read_heartbeats(Path(self.spec.run_folder)) if sign.pid in mine]

    def trained(self) -> int:
        """The last logged step."""
        return max((event["step"] for event in read_all(self.spec.events) if event["kind"] == "step"), default=0)

    def wait_for_step(self, step: int, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while self.trained() < step:
            assert time.monotonic() < until, f"step {step} has not come"
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)


def tree(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*"):
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def kill_tree(process: int, sign: signal.Signals = signal.SIGKILL) -> None:
    """As when a machine is switched off: stopped first, so that none sees another's end."""
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
        return 0 if (tracked(spec, tracking) if tracking else launch(spec, ignore)).finished else 3
    except TrainingInterruptedError as error:
        print(error)
        return INTERRUPTED
    except (TrainingFailedError, CannotWriteError, ConfigError) as error:
        print(error)
        return 1


def ignore(event: Event) -> None:
    """What there is to see stands in the event log."""


def tracked(spec: RunSpec, tracking: str) -> TrainingResult:
    """With the numbers in MLflow, as the training node has them: in the run of an earlier start, if there is one."""
    import mlflow

    from clips_pipeline.pipelines.train.nodes import interrupted_run_id
    from clips_pipeline.registry.tracking.run_tracking import RunTracker

    mlflow.set_tracking_uri(tracking)
    with mlflow.start_run(run_id=interrupted_run_id(spec)), RunTracker(Path(spec.run_folder)) as tracker:
        return launch(spec, tracker.record, tracker.reader(spec.events))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
