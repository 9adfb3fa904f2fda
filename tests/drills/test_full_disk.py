"""A full disk: one error with file and remedy, no valid checkpoint is lost, and the same command resumes."""

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.drills.conftest import assert_same_weights
from tests.integration.conftest import SpecOf, output_of

from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.resume import checkpoint_store
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

STATE_MIB = 27
"""Size of a checkpoint in these tests: weights and two moments."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that holds one and a half checkpoints."""
    point = tmp_path / "disk"
    point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB * 3 // 2}m", "tmpfs", str(point)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr}")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


def more_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=500m", str(disk)], check=True)


def on(disk: Path, spec: RunSpec) -> RunSpec:
    return dataclasses.replace(spec, run_folder=str(disk / "run"), model_folder=str(disk / "run-model"))


def test_a_full_disk_while_a_checkpoint_is_written(spec_of: SpecOf, whole: RunSpec, disk: Path) -> None:
    spec = on(disk, spec_of("run"))
    message = (
        r"^\S+/checkpoints/ba4: cannot be written: No space left on device \(\d+ MiB free of \d+ there\); make room"
    )
    with pytest.raises(TrainingFailedError, match=message):
        launch(spec, lambda event: None)
    assert [event["kind"] for event in read_all(spec.events)].count("error") == 1
    assert [path.name for path in spec.checkpoints.iterdir()] == ["ba2"]
    assert checkpoint_store.find_damage(spec.checkpoints / "ba2") is None
    more_room(disk)
    assert launch(spec, lambda event: None).finished
    assert_same_weights(spec, whole)


def test_every_rank_ends_with_the_error_of_rank_0(spec_of: SpecOf, disk: Path) -> None:
    spec = on(disk, spec_of("run", launch={"processes": 2}))
    with pytest.raises(TrainingFailedError, match=r"ba4: cannot be written: No space left on device"):
        launch(spec, lambda event: None)
    for rank in range(2):
        assert "CannotWriteError: " in output_of(spec.run_folder, rank)
    assert [path.name for path in spec.checkpoints.iterdir()] == ["ba2"]


def test_a_full_disk_while_the_event_log_is_written(spec_of: SpecOf, disk: Path) -> None:
    changes: dict[str, Any] = {"samples": 200 * 8, "every": {"checkpoint": 40, "keep_checkpoints": 1}}
    whole, spec = spec_of("whole", **changes), on(disk, spec_of("run", **changes))
    assert launch(whole, lambda event: None).finished
    more_room(disk)

    def fill(event: Event) -> None:
        # Long before the next checkpoint, so that the event log is written next.
        if event["kind"] == "step" and event["step"] == 42:
            with (disk / "filler").open("wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12):
                    with suppress(OSError):
                        while file.write(bytes(size)):
                            pass

    with pytest.raises(TrainingFailedError, match=r"^\S+/events\.jsonl: cannot be written: No space left on device"):
        launch(spec, fill)
    left = checkpoint_store.list_checkpoints(spec.checkpoints)
    assert len(left) == 1
    assert checkpoint_store.find_damage(left[0].folder) is None
    (disk / "filler").unlink()
    assert launch(spec, lambda event: None).finished
    assert [event["step"] for event in read_all(spec.events) if event["kind"] == "step"] == list(range(1, 201))
    assert_same_weights(spec, whole)
