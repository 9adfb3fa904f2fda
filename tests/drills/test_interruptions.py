"""Interrupts: SIGTERM, a dead parent, and a second start on the same run folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.drills.conftest import assert_same_weights
from tests.drills.training_process import TrainingProcess, kill_tree, send, tree
from tests.integration.conftest import SpecOf
from tests.servers import wait_for

from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.interrupt import INTERRUPTED
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.launch.result import RANK_MODULE
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

LONG: dict[str, Any] = {"samples": 40 * 8, "every": {"log": 1, "evaluate": 1_000, "checkpoint": 1_000}}
RANKS = (1, 2)


def spec_with(spec_of: SpecOf, name: str, ranks: int) -> RunSpec:
    return spec_of(name, **LONG, launch={"processes": ranks, "loader_workers": 2})


def events(spec: RunSpec, kind: str) -> list[Event]:
    return [event for event in read_all(spec.events) if event["kind"] == kind]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_resumes(spec: RunSpec, whole: RunSpec) -> None:
    code, printed = TrainingProcess(spec).end()
    assert code == 0, printed
    (interrupted,) = events(spec, "interrupted")
    assert events(spec, "start")[-1]["resumed_from"] == str(spec.checkpoints / f"ba{interrupted['step']}")
    steps = [event["step"] for event in events(spec, "step")]
    assert steps == list(range(1, 41))
    assert_same_weights(spec, whole)


@pytest.mark.parametrize("ranks", RANKS)
def test_sigterm_saves_a_checkpoint_and_the_same_command_resumes(spec_of: SpecOf, ranks: int) -> None:
    whole = spec_with(spec_of, "whole", ranks)
    assert launch(whole, lambda event: None).finished
    # To the launcher; to one rank; and to every process, loader workers too, as clusters do.
    for name in ("launcher", "rank", "all"):
        spec = spec_with(spec_of, name, ranks)
        run = TrainingProcess(spec)
        run.wait_for_step(3)
        if name == "launcher":
            send(run.process.pid, signal.SIGTERM)
        elif name == "rank":
            send(run.ranks()[-1], signal.SIGTERM)
        else:
            kill_tree(run.process.pid, signal.SIGTERM)
        code, printed = run.end()
        assert code == INTERRUPTED, printed
        (interrupted,) = events(spec, "interrupted")
        assert f"interrupted at step {interrupted['step']} (rank " in printed
        assert "the same command resumes from it" in printed
        assert [event["step"] for event in events(spec, "checkpoint")] == [interrupted["step"]]
        assert_resumes(spec, whole)


def test_ranks_end_when_their_launcher_is_killed(spec_of: SpecOf) -> None:
    whole, spec = spec_with(spec_of, "whole", 2), spec_with(spec_of, "orphans", 2)
    assert launch(whole, lambda event: None).finished
    run = TrainingProcess(spec)
    run.wait_for_step(3)
    below = [process for process in tree(run.process.pid) if process != run.process.pid]
    assert len(below) == 1 + 2 * 3  # torchrun's agent, and two ranks, each with two loaders
    send(run.process.pid, signal.SIGKILL)
    run.end()
    # Without a pause: the new start waits until the lock is free.
    assert_resumes(spec, whole)
    assert events(spec, "interrupted")[0]["reason"].endswith("the process that started it is gone")
    wait_for(lambda: not any(alive(process) for process in below), 10.0)


def test_a_second_start_on_a_run_folder_is_refused_and_names_the_first(spec_of: SpecOf) -> None:
    spec = spec_of("one", **{**LONG, "samples": 100_000})
    first = TrainingProcess(spec)
    first.wait_for_step(2)
    today = time.strftime("%Y-%m-%d")
    code, printed = TrainingProcess(spec, "again.json").end()
    assert code == 1
    assert (
        f"a training already runs here: process {first.process.pid} on host {os.uname().nodename}, since {today}"
        in printed
    )
    # So is a rank that torchrun starts.
    command = [sys.executable, "-m", RANK_MODULE, str(spec.checkpoints.parent / "run_spec.json")]
    rank = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert rank.returncode == 1
    assert f"a training already runs here: process {first.ranks()[0]} on host" in rank.stderr
    assert first.process.poll() is None
    send(first.process.pid, signal.SIGTERM)
    code, printed = first.end()
    assert code == INTERRUPTED, printed
    assert len(events(spec, "start")) == 1
