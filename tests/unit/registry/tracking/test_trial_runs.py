"""One MLflow child run per trial and one parent run per study, over any number of starts."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from clips_pipeline.registry.tracking import trial_runs
from clips_pipeline.tuning.trial import TrialInfo

# Warnings of MLflow's tables with the locked SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


def trial_info(
    tmp_path: Path, number: int, first_attempt: int, parent: str | None, run_id: str | None = None
) -> TrialInfo:
    folder = tmp_path / f"{first_attempt:04d}"
    return TrialInfo(number, first_attempt, run_id, {"loss.caption_weight": 2.0}, folder, "clips", parent)


def test_attempts_share_a_child_run_with_the_final_state(client: MlflowClient, tmp_path: Path) -> None:
    with mlflow.start_run() as parent:
        parent_id = parent.info.run_id
        with trial_runs.child_run(trial_info(tmp_path, 0, 0, None)) as first:
            assert first.url == f"http://127.0.0.1:5000/#/experiments/0/runs/{first.run_id}"
            first.finish("interrupted")
        assert first.run_id is not None
        assert client.get_run(first.run_id).info.status == "KILLED"
        # The study does not know the run's id: it is found by its tags.
        with trial_runs.child_run(trial_info(tmp_path, 1, 0, parent_id)) as again:
            assert again.run_id == first.run_id
            assert client.get_run(first.run_id).info.status == "RUNNING"
            again.finish("pruned")
        with trial_runs.child_run(trial_info(tmp_path, 2, 0, parent_id, first.run_id)) as third:
            assert third.run_id == first.run_id
            third.finish("complete")
        with (
            pytest.raises(RuntimeError, match="bad"),
            trial_runs.child_run(trial_info(tmp_path, 3, 3, parent_id)) as other,
        ):
            raise RuntimeError("bad")
        trial_runs.save_parent(tmp_path, "clips", parent_id)
    tags = client.get_run(first.run_id).data.tags
    assert (tags["optuna.trial"], tags["optuna.first_attempt"], tags["optuna.state"]) == ("2", "0", "complete")
    assert client.get_run(first.run_id).data.params == {"loss.caption_weight": "2.0"}
    assert other.run_id != first.run_id
    assert client.get_run(str(other.run_id)).info.status == "FAILED"
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent_id}'")
    assert len(children) == 2
    assert trial_runs.load_parent(tmp_path, "clips") == parent_id
    assert trial_runs.load_parent(tmp_path, "another") is None
    # A second process of the same study is tagged with the parent of its trials.
    with mlflow.start_run() as second:
        trial_runs.save_parent(tmp_path, "clips", parent_id)
    assert client.get_run(second.info.run_id).data.tags["optuna.parent_run"] == parent_id


def test_trials_run_without_mlflow(client: MlflowClient, tmp_path: Path) -> None:
    with trial_runs.child_run(trial_info(tmp_path, 0, 0, None)) as tracker:
        assert tracker.run_id is None
        assert list(tracker.reader(tmp_path / "events.jsonl").read()) == []
