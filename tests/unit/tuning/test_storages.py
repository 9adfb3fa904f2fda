"""Four processes run one study, and one of them is killed: every trial runs once, with every storage."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.servers import postgresql_server, wait_for
from tests.unit.tuning import trial_worker

from clips_pipeline.config import ConfigError
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import SearchConfig, StudyStorageConfig
from clips_pipeline.tuning.storage import open_storage

TRIALS = 20


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


# The same test for files takes as long, so it is a drill.
FILES = [pytest.param("sqlite", marks=pytest.mark.slow)]


@pytest.fixture(params=[*FILES, "postgresql"])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind: str = request.param
    return kind, request.getfixturevalue("postgresql") if kind == "postgresql" else "none"


def start(folder: Path, kind: str, url: str, hang: bool) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.unit.tuning.trial_worker",
        str(folder),
        kind,
        url,
        str(TRIALS),
        str(int(hang)),
    ]
    with (folder / f"{'hanging' if hang else 'worker'}.log").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=Path(__file__).parents[3])


def test_four_processes_run_every_trial_once(place: tuple[str, str], tmp_path: Path) -> None:
    workers = [start(tmp_path, *place, hang=number == 0) for number in range(4)]
    wait_for((tmp_path / "hangs").exists, 300.0)
    workers[0].kill()
    workers[0].wait()
    for worker in workers:
        worker.wait(120)
    assert [worker.returncode for worker in workers[1:]] == [0, 0, 0], (tmp_path / "worker.log").read_text()
    study, storage = trial_worker.opened(tmp_path, trial_worker.config_of(place[0], TRIALS), place[1])
    trials = study.get_trials()
    storage.close()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert len(trials) == TRIALS + 1
    (killed,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    successor = trials[trial_queue.next_attempts(trials)[killed.number]]
    assert successor.params == killed.params
    assert trial_queue.first_attempt_of(successor) == killed.number
    assert len({trial.params["loss.caption_weight"] for trial in complete}) == TRIALS
    assert complete[0].params["loss.caption_weight"] == 2.0  # the training's own value
    assert all(trial.value == trial.params["loss.caption_weight"] for trial in complete)


@pytest.mark.slow
def test_in_a_journal_a_killed_trial_counts_and_the_others_run_once(tmp_path: Path) -> None:
    """Optuna has no heartbeat for journal storage."""
    workers = [start(tmp_path, "journal", "none", hang=number == 0) for number in range(3)]
    wait_for((tmp_path / "hangs").exists, 300.0)
    workers[0].kill()
    workers[0].wait()
    assert [worker.wait(120) for worker in workers[1:]] == [0, 0], (tmp_path / "worker.log").read_text()
    study, storage = trial_worker.opened(tmp_path, trial_worker.config_of("journal", TRIALS), "none")
    states = [trial.state for trial in study.get_trials()]
    storage.close()
    assert states.count(TrialState.COMPLETE) == TRIALS - 1
    assert states.count(TrialState.RUNNING) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://clips:hush@127.0.0.1:1/postgres", r"://…@127\.0\.0\.1:1/postgres cannot be reached"),
        (
            "postgresql://127.0.0.1:1/postgres?user=clips&password=hush",
            r"://127\.0\.0\.1:1/postgres\?… cannot be reached",
        ),
        ("mysql://clips:hush@127.0.0.1/x", "mysql is not postgresql"),
        ("hush", "not a database URL"),
        (None, r"conf/local/credentials\.yml needs search"),
    ],
)
def test_an_unreachable_storage_gives_one_error_without_password(tmp_path: Path, url: str | None, message: str) -> None:
    config = SearchConfig(storage=StudyStorageConfig(kind="postgresql", timeout_s=2.0))
    with pytest.raises(ConfigError, match=message) as caught:
        open_storage(config, tmp_path, {"url": url} if url else {})
    assert "hush" not in str(caught.value)


def test_a_wrong_password_gives_one_error(postgresql: str, tmp_path: Path) -> None:
    wrong = postgresql.replace("testing", "hush")
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        open_storage(SearchConfig(storage=StudyStorageConfig(kind="postgresql")), tmp_path, {"url": wrong})
    assert "hush" not in str(caught.value)


def test_an_invalid_database_file_gives_one_error(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, and long enough to look at it twice" * 40)
    with pytest.raises(ConfigError, match=r"study\.db cannot be reached"):
        open_storage(SearchConfig(), tmp_path, {})
