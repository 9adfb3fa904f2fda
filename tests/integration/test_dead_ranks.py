"""A rank that dies or hangs ends the run within a timeout, with its name and last log lines; the same call resumes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf

from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.heartbeat import Heartbeat, read_heartbeats
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

CHANGES = {
    "samples": 48 * 8,
    "launch": {"processes": 2, "rank_timeout_s": 8.0, "loader_workers": 1},
    "every": {"checkpoint": 3, "evaluate": 1_000},
}


def ignore(event: Event) -> None:
    """Do nothing: the events are read after the launch."""


def at_step(number: int, spec: RunSpec, act: Callable[[list[Heartbeat]], None]) -> Callable[[Event], None]:
    """Return an event handler that calls `act` with the heartbeats once, after step `number`."""
    done: list[int] = []

    def on_event(event: Event) -> None:
        if event["kind"] == "step" and event["step"] >= number and not done:
            done.append(event["step"])
            act(read_heartbeats(Path(spec.run_folder)))

    return on_event


def loaders_of(heartbeat: Heartbeat) -> list[int]:
    """Return the loader workers of a rank."""
    return [int(child) for child in Path(f"/proc/{heartbeat.pid}/task/{heartbeat.pid}/children").read_text().split()]


def kill_loader_of(heartbeat: Heartbeat) -> None:
    """Kill the loader workers of a rank, as the system does when memory runs out; between two epochs it has none."""
    rank, killed = psutil.Process(heartbeat.pid), False
    while not killed:
        rank.suspend()
        for loader in rank.children():
            if loader.status() != psutil.STATUS_ZOMBIE:
                loader.kill()
                killed = True
        rank.resume()
        time.sleep(0.01)


def kill_with_stopped_loader(heartbeat: Heartbeat) -> None:
    """Kill the rank after stopping its loader workers, so that they do not notice.

    A loader worker holds the pipe by which torch notices the end of a forked rank.
    """
    for loader in loaders_of(heartbeat):
        os.kill(loader, signal.SIGSTOP)
    os.kill(heartbeat.pid, signal.SIGKILL)


def kill_while_agent_is_slow(heartbeat: Heartbeat) -> None:
    """Kill the rank with its loader workers; its agent looks only after a peer has noticed."""
    agent = psutil.Process(heartbeat.pid).parent()
    assert agent is not None
    agent.suspend()
    for pid in [*loaders_of(heartbeat), heartbeat.pid]:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    agent.resume()


FAILURES = {
    "rank 1 killed": (
        lambda heartbeats: kill_while_agent_is_slow(heartbeats[1]),
        r"^rank 1 \(host \S+, pid \d+\) was killed by SIGKILL \(which the system sends when memory runs out\)\n",
    ),
    "rank 0 killed": (
        lambda heartbeats: kill_with_stopped_loader(heartbeats[0]),
        r"^rank 0 \(host \S+, pid \d+\) was killed by SIGKILL",
    ),
    "rank 1 hangs": (
        lambda heartbeats: os.kill(heartbeats[1].pid, signal.SIGSTOP),
        r"^rank 1 \(host \S+, pid \d+\) has sent no heartbeat for \d+ s\n",
    ),
    "the loader of rank 1 killed": (
        lambda heartbeats: kill_loader_of(heartbeats[1]),
        r"^rank 1 \(host \S+, pid \d+\) failed: RuntimeError: DataLoader worker (?s:.)*"
        r"\nThe last lines of \S+/attempt_0/1/stderr\.log:\n(?s:.)*DataLoader worker",
    ),
}


def test_failures_end_the_run_and_the_same_call_resumes(spec_of: SpecOf) -> None:
    whole = spec_of("whole", **CHANGES)
    assert launch(whole, ignore).finished
    logs = list(Path(whole.run_folder).glob("logs/*/attempt_0/*/stderr.log"))
    assert [log.read_text() for log in logs] == ["", ""]  # a cause is looked for in them, so they must be empty
    expected = load_file(Path(whole.model_folder) / "model.safetensors")
    for number, (name, (failure, message)) in enumerate(FAILURES.items()):
        spec = spec_of(f"run-{number}", **CHANGES)
        hurt: list[Heartbeat] = []

        def act(
            heartbeats: list[Heartbeat],
            hurt: list[Heartbeat] = hurt,
            failure: Callable[[list[Heartbeat]], None] = failure,
        ) -> None:
            hurt.extend(heartbeats)
            failure(heartbeats)

        with pytest.raises(TrainingFailedError, match=message) as caught:
            launch(spec, at_step(7, spec, act))
        shown = str(caught.value)
        assert "Last heartbeats of the ranks:\n  rank" in shown, name
        assert shown.endswith("The same command resumes from the last checkpoint."), name
        assert [heartbeat.rank for heartbeat in hurt] == [0, 1]
        assert not any(Path(f"/proc/{heartbeat.pid}").exists() for heartbeat in hurt), name
        assert not Path(spec.model_folder).exists()
        assert launch(spec, ignore).finished
        starts = [event for event in read_all(spec.events) if event["kind"] == "start"]
        assert starts[1]["resumed_from"] is not None, name
        found = load_file(Path(spec.model_folder) / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
