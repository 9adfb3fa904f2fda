"""Searches with real trainings: killed and resumed, pruned on two ranks, shared by four processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from optuna_dashboard import get_note
from tests.integration import searching
from tests.servers import postgresql_server, wait_for

from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import PrunerConfig

pytestmark = [
    pytest.mark.slow,  # every trial imports Composer afresh
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def start(folder: Path, prepared: Path, kind: str, url: str, trials: int, samples: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(prepared), kind, url, str(trials), str(samples)]
    with (folder / "search.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integration.searching", *arguments],
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parents[2],
        )


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("trials/*/*/run/checkpoints/*/*"))


def tree(folder: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the parent runs, and the tags of each child run by id."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(["0"])
    children = {run.info.run_id: run.data.tags for run in runs if "mlflow.parentRunId" in run.data.tags}
    for run in runs:
        if run.info.run_id not in children:
            continue
        points = client.get_metric_history(run.info.run_id, "train/loss/total")
        assert [point.step for point in points] == list(range(1, len(points) + 1))
    return [run.info.run_id for run in runs if run.info.run_id not in children], children


def test_a_killed_search_resumes_its_trial_within_the_budget(prepared: Path, tmp_path: Path) -> None:
    samples = 8 * 200
    first = start(tmp_path, prepared, "sqlite", "none", 2, samples)
    wait_for(lambda: has_checkpoint(tmp_path) or first.poll() is not None, 200.0)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert start(tmp_path, prepared, "sqlite", "none", 2, samples).wait(400) == 0, (tmp_path / "search.log").read_text()

    study = optuna.load_study(study_name="clips", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    # The other trial may run first: the killed one is retried when its heartbeat is old.
    ((_, number),) = trial_queue.next_attempts(study.trials).items()
    killed, again, second = study.trials[0], study.trials[number], study.trials[3 - number]
    assert again.params == killed.params
    assert list(again.intermediate_values) == [1, 2, 3, 4]
    # It resumed from its checkpoint: the event log has no step twice.
    events = read_all(Path(again.user_attrs[trial_queue.FOLDER]) / "events.jsonl")
    starts = [event for event in events if event["kind"] == "start"]
    assert starts[0]["resumed_from"] is None
    assert starts[-1]["resumed_from"] is not None

    parents, children = tree(tmp_path)
    assert len(parents) == 1
    assert set(children) == {again.user_attrs[trial_queue.RUN_ID], second.user_attrs[trial_queue.RUN_ID]}
    assert killed.user_attrs[trial_queue.RUN_ID] == again.user_attrs[trial_queue.RUN_ID]
    assert children[again.user_attrs[trial_queue.RUN_ID]]["optuna.trial"] == str(number)
    assert {tags["optuna.state"] for tags in children.values()} == {"complete"}
    note = get_note(optuna.Trial(study, again._trial_id))
    assert again.user_attrs[trial_queue.RUN_ID] in note
    # The budget is used up: another start adds nothing.
    assert start(tmp_path, prepared, "sqlite", "none", 2, samples).wait(200) == 0
    again_study = optuna.load_study(study_name="clips", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(again_study.trials) == 3
    assert tree(tmp_path) == (parents, children)


def test_a_trial_below_the_median_is_pruned_on_two_ranks(prepared: Path, tmp_path: Path) -> None:
    pruner = PrunerConfig(kind="median", startup_trials=1, warmup_evaluations=0)
    config = searching.config_of("sqlite", 2, 8 * 60, evaluations=6, pruner=pruner)
    parameters = searching.parameters_of(launch={**searching.parameters_of()["launch"], "processes": 2})

    def perfect(run_id: str | None) -> None:
        # The study is open and its first trial queued; add a finished trial that no other can beat.
        study = optuna.load_study(study_name="clips", storage=f"sqlite:///{tmp_path / 'study.db'}")
        study.add_trial(
            optuna.create_trial(
                value=2.0,
                intermediate_values=dict.fromkeys(range(1, 7), 2.0),
                user_attrs={trial_queue.VALUES: {"loss.caption_weight": 1.0}, trial_queue.COST: 1e9},
            )
        )

    result = searching.run(config, parameters, tmp_path, prepared, on_parent=perfect)
    pruned, _ = result.trials.to_dict("records")
    assert pruned["state"] == "pruned"
    assert result.best_trial == 1
    run = tmp_path / "trials" / "clips" / "0000" / "run"
    end = read_all(run / "events.jsonl")[-1]
    assert end["kind"] == "end"
    assert not end["finished"]
    assert end["step"] < 60
    assert list(run.glob("logs/*/attempt_0/1/stderr.log"))


def test_four_processes_share_a_study_in_postgresql(prepared: Path, tmp_path: Path) -> None:
    trials, samples = 6, 8 * 30
    # Create the tables before: concurrent MLflow processes would create them at the same time and fail.
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()
    with postgresql_server(tmp_path) as url:
        workers = [start(tmp_path, prepared, "postgresql", url, trials, samples) for _ in range(4)]
        wait_for(lambda: has_checkpoint(tmp_path) or workers[0].poll() is not None, 300.0)
        os.kill(workers[0].pid, signal.SIGKILL)
        codes = [worker.wait(500) for worker in workers]
        assert codes[1:] == [0, 0, 0], (tmp_path / "search.log").read_text()
        storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
        found = optuna.load_study(study_name="clips", storage=storage).trials
        storage.remove_session()
        storage.engine.dispose()
    complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert len(complete) == trials
    retried = trial_queue.next_attempts(found)
    assert all(trial.number in retried for trial in found if trial not in complete)
    assert len({trial_queue.first_attempt_of(trial) for trial in complete}) == trials
    _, children = tree(tmp_path)
    assert set(children) == {trial.user_attrs[trial_queue.RUN_ID] for trial in complete}
