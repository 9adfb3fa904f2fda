"""A rank that dies or hangs ends the run in bounded time, with its name and its last lines; the same call goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

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
    "samples": 24 * 8,
    "launch": {"processes": 2, "rank_timeout_s": 8.0, "loader_workers": 1},
    "every": {"checkpoint": 3, "evaluate": 1_000},
}


def ignore(event: Event) -> None:
    """For launches whose events are read afterwards."""


def at_step(number: int, spec: RunSpec, act: Callable[[list[Heartbeat]], None]) -> Callable[[Event], None]:
    """Does something to the ranks once, when `number` has been trained."""
    done: list[int] = []

    def on_event(event: Event) -> None:
        if event["kind"] == "step" and event["step"] >= number and not done:
            done.append(event["step"])
            act(read_heartbeats(Path(spec.run_folder)))

    return on_event


def loaders_of(sign: Heartbeat) -> list[int]:
    """Processes that make the rank's batches."""
    return [int(child) for child in Path(f"/proc/{sign.pid}/task/{sign.pid}/children").read_text().split()]


def kill_loader_of(sign: Heartbeat) -> None:
    """Ends the process that makes the rank's batches, as the system does when memory runs out."""
    for loader in loaders_of(sign):
        os.kill(loader, signal.SIGKILL)


def kill_beside_its_loader(sign: Heartbeat) -> None:
    """Ends the rank, and stops its loader before, so that it never sees that the rank is gone.

    A loader holds the pipe by which torch sees the end of a forked rank.
    """
    for loader in loaders_of(sign):
        os.kill(loader, signal.SIGSTOP)
    os.kill(sign.pid, signal.SIGKILL)


ACCIDENTS = {
    "rank 1 killed": (
        lambda signs: kill_beside_its_loader(signs[1]),
        r"^rank 1 \(host \S+, pid \d+\) was killed by SIGKILL \(which the system sends when memory runs out\)\n",
    ),
    "rank 0 killed": (
        lambda signs: os.kill(signs[0].pid, signal.SIGKILL),
        r"^rank 0 \(host \S+, pid \d+\) was killed by SIGKILL",
    ),
    "rank 1 hangs": (
        lambda signs: os.kill(signs[1].pid, signal.SIGSTOP),
        r"^rank 1 \(host \S+, pid \d+\) has sent no heartbeat for \d+ s\n",
    ),
    "the loader of rank 1 killed": (
        lambda signs: kill_loader_of(signs[1]),
        # Killed while it hands over a batch, it leaves a traceback that a dead peer leaves too, which is not shown.
        r"^rank 1 \(host \S+, pid \d+\) failed: (RuntimeError: )?DataLoader worker (ended while it sent|(?s:.)*"
        r"\nThe last lines of \S+/attempt_0/1/stderr\.log:\n(?s:.)*DataLoader worker)",
    ),
}


def test_accidents_end_the_run_and_the_same_call_goes_on(spec_of: SpecOf) -> None:
    whole = spec_of("whole", **CHANGES)
    assert launch(whole, ignore).finished
    logs = list(Path(whole.run_folder).glob("logs/*/attempt_0/*/stderr.log"))
    assert [log.read_text() for log in logs] == ["", ""]  # a cause is found in them, so nothing else stands there
    expected = load_file(Path(whole.model_folder) / "model.safetensors")
    for number, (name, (accident, message)) in enumerate(ACCIDENTS.items()):
        spec = spec_of(f"run-{number}", **CHANGES)
        hurt: list[Heartbeat] = []

        def act(
            signs: list[Heartbeat], hurt: list[Heartbeat] = hurt, accident: Callable[[list[Heartbeat]], None] = accident
        ) -> None:
            hurt.extend(signs)
            accident(signs)

        with pytest.raises(TrainingFailedError, match=message) as caught:
            launch(spec, at_step(7, spec, act))
        shown = str(caught.value)
        assert "Last heartbeats of the ranks:\n  rank" in shown, name
        assert shown.endswith("The same command resumes from the last checkpoint."), name
        assert [sign.rank for sign in hurt] == [0, 1]
        assert not any(Path(f"/proc/{sign.pid}").exists() for sign in hurt), name
        assert not Path(spec.model_folder).exists()
        assert launch(spec, ignore).finished
        starts = [event for event in read_all(spec.events) if event["kind"] == "start"]
        assert starts[1]["resumed_from"] is not None, name
        found = load_file(Path(spec.model_folder) / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
