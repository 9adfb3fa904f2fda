"""Interrupts of `kedro run`: exit codes, messages, and one MLflow run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from tests.kedro_project import client, kedro
from tests.servers import wait_for

from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.interrupt import INTERRUPTED

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

ARGUMENTS = ("--pipelines", "prepare,train", "--env", "smoke", "--params")
STEPS = 100
PARAMETERS = f"train.samples={16 * STEPS},train.every.log=1,train.every.evaluate=50,train.every.checkpoint=1000"


def start(project: Path, parameters: str = PARAMETERS) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kedro", "run", *ARGUMENTS, parameters]
    environment = {**os.environ, "COLUMNS": "300", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate(timeout=300)
    return process.returncode, " ".join(printed.split())


def trained(project: Path) -> int:
    logs = list((project / "data/smoke/06_models/runs").glob("*/events.jsonl"))
    assert len(logs) <= 1
    return max((event["step"] for log in logs for event in read_all(log) if event["kind"] == "step"), default=0)


def test_kedro_run_is_interrupted_refused_killed_and_resumed(project: Path) -> None:
    kedro(project, "--pipelines", "prepare", "--env", "smoke")
    first = start(project)
    wait_for(lambda: trained(project) >= 3 or first.poll() is not None, 180.0)
    # A second start at the same time.
    code, shown = end(start(project))
    assert code == 2, shown
    assert f"a training already runs here: process {first.pid} on host" in shown
    assert "Traceback" not in shown
    first.send_signal(signal.SIGTERM)
    code, shown = end(first)
    assert code == INTERRUPTED, shown
    assert "interrupted at step" in shown
    assert "the same command resumes from it" in shown
    assert "Traceback" not in shown
    done = trained(project)
    assert 3 <= done < STEPS

    # Ctrl-C reaches the whole process group of the terminal, with the same message.
    second = start(project)
    wait_for(lambda: trained(project) > done or second.poll() is not None, 180.0)
    os.killpg(second.pid, signal.SIGINT)
    code, shown = end(second)
    assert code == 128 + signal.SIGINT, shown
    assert "(Ctrl-C); a checkpoint was saved, and the same command resumes from it" in shown
    assert "Aborted!" not in shown
    assert "Traceback" not in shown
    interrupted_at = trained(project)
    assert done < interrupted_at < STEPS

    code, shown = end(start(project, f"{PARAMETERS},train.seed=7"))
    assert code == 2, shown
    assert "train.seed was 0 and is now 7" in shown
    assert "Traceback" not in shown

    killed = start(project)
    wait_for(lambda: trained(project) >= interrupted_at + 5 or killed.poll() is not None, 180.0)
    os.killpg(killed.pid, signal.SIGKILL)
    code, shown = end(killed)
    assert code == -signal.SIGKILL, shown
    killed_at = trained(project)
    assert interrupted_at + 5 <= killed_at < STEPS
    assert [run.info.status for run in training_runs(project)] == ["RUNNING"]

    writer = project / "src/clips_pipeline/data/shards/writer.py"
    writer.write_text(writer.read_text() + "\n# A comment between kill and resume.\n")
    code, shown = end(start(project))
    assert code == 0, shown
    assert "shards: up to date" in shown
    assert trained(project) == STEPS
    (run,) = training_runs(project)
    assert run.info.status == "FINISHED"
    points = client(project).get_metric_history(run.info.run_id, "train/loss/total")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))


def training_runs(project: Path) -> list[Run]:
    experiments = [experiment.experiment_id for experiment in client(project).search_experiments()]
    return [run for run in client(project).search_runs(experiments) if "train/loss/total" in run.data.metrics]


def test_a_change_of_an_unfinished_training_is_reported_once(project: Path) -> None:
    """The hook and the node both look for an unfinished training."""
    kedro(project, "--pipelines", "prepare", "--env", "smoke")
    shutil.rmtree(project / "data/smoke/06_models", ignore_errors=True)  # delete the training of the test before
    first = start(project)
    wait_for(lambda: trained(project) >= 4 or first.poll() is not None, 180.0)
    first.send_signal(signal.SIGTERM)
    code, shown = end(first)
    assert code == INTERRUPTED, shown
    # Fewer samples than are already trained, so that it ends at once.
    code, shown = end(start(project, PARAMETERS.replace(f"samples={16 * STEPS}", "samples=48")))
    assert code != 0, shown
    assert shown.count(f"train.samples was {16 * STEPS} and is now 48; applied to the unfinished training in") == 1
    assert "Traceback" not in shown
