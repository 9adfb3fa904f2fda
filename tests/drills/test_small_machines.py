"""`kedro run` on small and odd machines: one error or success, and two first starts at the same time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kedro_project import client
from tests.servers import wait_for

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

SMOKE = ("--env", "smoke", "--pipelines")
SHARDS = "data/smoke/03_primary/shards"


def start(
    project: Path, *pipelines: str, before: str = "", environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start `kedro run` after a shell command, with file systems of its own."""
    command = [sys.executable, "-m", "kedro", "run", *SMOKE, ",".join(pipelines)]
    if before:
        command = ["unshare", "-m", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    return subprocess.Popen(
        command,
        cwd=project,
        env={
            **(os.environ if environment is None else environment),
            "COLUMNS": "400",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    printed, _ = process.communicate(timeout=300)
    if "unshare: " in printed or "mount: " in printed:
        pytest.skip(f"no other file systems can be mounted here: {printed}")
    return process.returncode, " ".join(printed.split())


def small(folder: str, size: str) -> str:
    return f"mkdir -p {folder} && mount -t tmpfs -o size={size} tmpfs {folder}"


def read_only(folder: str) -> str:
    return f"mkdir -p {folder} && mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"


@pytest.fixture(scope="module")
def prepared(project: Path) -> Path:
    """A new project after two first starts at the same time."""
    for process in [start(project, "prepare"), start(project, "prepare")]:
        code, shown = end(process)
        assert code == 0, shown
        assert "Traceback" not in shown
        assert "shards: up to date" in shown or "256 samples" in shown
    assert (project / SHARDS / "index.json").is_file()
    assert client(project).search_experiments()
    return project


def test_two_first_starts_both_succeed(prepared: Path) -> None:
    code, shown = end(start(prepared, "prepare"))
    assert code == 0, shown
    for made in ("shards", "tokenizer", "data_health.html"):
        assert f"{made}: up to date" in shown
    assert not [path.name for path in (prepared / "data/smoke").rglob(".*") if ".partial" in path.name]


def test_a_start_that_is_killed_while_mlflow_makes_its_database_is_mended_by_the_next(project: Path) -> None:
    """The first one is killed as soon as the file of the database has its first table."""
    database = project / "mlruns" / "mlflow.db"
    before = database.read_bytes() if database.exists() else None
    database.unlink(missing_ok=True)
    killed = start(project, "prepare")
    wait_for(lambda: (database.exists() and database.stat().st_size > 0) or killed.poll() is not None, 180.0)
    os.killpg(killed.pid, signal.SIGKILL)
    end(killed)
    try:
        code, shown = end(start(project, "prepare"))
        assert code == 0, shown
        assert "Traceback" not in shown
        assert client(project).search_experiments()
    finally:
        if before is not None:
            database.write_bytes(before)


@pytest.mark.parametrize(
    ("pipeline", "before", "named"),
    [
        ("prepare", small("data/smoke", "300k"), f"{SHARDS.replace('/shards', '/.shards.partial')}/shards/train"),
        ("prepare", read_only("data/none") + " && mount --move data/none data/smoke", "data/smoke"),
        ("prepare", small("data/smoke/08_reporting", "12k"), "data/smoke/08_reporting/data_health.html"),
        ("train", read_only("data/smoke/06_models"), "data/smoke/06_models"),
        ("train", read_only("mlruns"), "attempt to write a readonly database"),
        ("prepare", f"{small('mlruns', '1m')} && mount -o remount,ro mlruns", "mlruns/mlflow.db.lock"),
        ("prepare", small("mlruns", "100k"), "mlruns"),
    ],
)
def test_a_full_or_read_only_disk_is_one_error_that_names_the_file(
    prepared: Path, pipeline: str, before: str, named: str
) -> None:
    report = prepared / "data/smoke/08_reporting/data_health.html"
    was = report.read_bytes()
    code, shown = end(start(prepared, pipeline, before=before))
    assert code == 1, shown
    assert "Traceback" not in shown
    assert shown.count(" ERROR ") == 1, shown
    assert named in shown.rpartition(" ERROR ")[2]
    assert "run the same command again" in shown
    assert report.read_bytes() == was


def test_read_only_data_with_nothing_to_do_goes_on(prepared: Path) -> None:
    code, shown = end(start(prepared, "prepare", before=read_only("data")))
    assert code == 0, shown
    assert "shards: up to date" in shown


def test_an_odd_environment(prepared: Path, tmp_path: Path) -> None:
    """No home, no locale, no terminal, nothing for group and others, and a path with a blank and an umlaut."""
    odd = tmp_path / "my ü dir"
    subprocess.run(["cp", "-r", str(prepared), str(odd)], check=True)
    for made in ("data/smoke", "mlruns"):
        subprocess.run(["rm", "-rf", str(odd / made)], check=True)
    process = start(odd, "prepare", "train", before="umask 077", environment={"LANG": "C"})
    code, shown = end(process)
    assert code == 0, shown
    assert "Traceback" not in shown
    assert f"optuna-dashboard 'sqlite:///{odd}/data/smoke/07_model_output/search/study.db'" in shown
    files = [path for path in (odd / "data/smoke").rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
