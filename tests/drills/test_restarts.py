"""`launch.restarts`: a rank is killed twice in one start; the training ends with the same weights, in one MLflow run."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tests.drills.conftest import assert_same_weights
from tests.drills.training_process import TrainingProcess, send
from tests.integration.conftest import SpecOf

from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

STEPS = 30


def events(spec: RunSpec, kind: str) -> list[Event]:
    return [event for event in read_all(spec.events) if event["kind"] == kind]


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_are_restarted_after_two_kills(spec_of: SpecOf, tmp_path: Path, ranks: int) -> None:
    changes: dict[str, Any] = {
        "samples": STEPS * 8,
        "every": {"log": 1, "evaluate": 1_000, "checkpoint": 3},
        "launch": {"processes": ranks, "loader_workers": 1, "restarts": 2},
    }
    whole, spec = spec_of("whole", **changes), spec_of("killed", **changes)
    assert launch(whole, lambda event: None).finished
    assert events(whole, "restart") == []

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(store).search_experiments()
    run = TrainingProcess(spec, tracking=store)
    killed: list[int] = []
    for step in (7, 16):
        run.wait_for_step(step)
        killed.append(run.ranks()[-1])
        send(killed[-1], signal.SIGKILL)
        until = time.monotonic() + 120
        while len(events(spec, "restart")) < len(killed):
            assert time.monotonic() < until
            time.sleep(0.05)
    code, printed = run.end()
    assert code == 0, printed
    assert_same_weights(spec, whole)
    restarts = events(spec, "restart")
    assert [(event["attempt"], event["of"]) for event in restarts] == [(1, 2), (2, 2)]
    for event, pid in zip(restarts, killed, strict=True):
        assert f"pid {pid}) ended without reporting an error" in event["reason"]
    starts = events(spec, "start")
    assert len(starts) == 3
    assert all(start["resumed_from"] is not None for start in starts[1:])
    assert [event["step"] for event in events(spec, "step")] == list(range(1, STEPS + 1))
    (tracked,) = MlflowClient(store).search_runs(["0"])
    assert tracked.info.status == "FINISHED"
    points = MlflowClient(store).get_metric_history(tracked.info.run_id, "train/loss/total")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))


def test_errors_that_would_occur_again_cause_no_restart(spec_of: SpecOf) -> None:
    launch_twice = {"processes": 2, "restarts": 2}
    diverged = spec_of("diverged", optimizer={"peak_lr": 1e30, "final_lr": 0.0}, launch=launch_twice)
    with pytest.raises(TrainingFailedError, match="not finite") as caught:
        launch(diverged, lambda event: None)
    assert "The same command" not in str(caught.value)
    assert events(diverged, "restart") == []
    assert len(events(diverged, "start")) == 1

    refused = spec_of("refused", launch=launch_twice | {"device": "gpu"})
    with pytest.raises(TrainingFailedError, match="torch finds none") as caught:
        launch(refused, lambda event: None)
    assert "The same command" not in str(caught.value)
    assert events(refused, "restart") == []
    # Rank 0 writes it, unless the other rank fails first and the agent has already ended rank 0.
    assert len(events(refused, "error")) <= 1
