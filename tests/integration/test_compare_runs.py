"""`kedro compare --runs`: real trainings through `kedro run`, by run folder and from MLflow."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kedro_project import client, kedro

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

RUNS = "data/smoke/06_models/runs"


def train(project: Path, parameters: str) -> Path:
    """Train four steps, and return the run folder."""
    before = set((project / RUNS).glob("*/run_spec.json"))
    short = "train.samples=64,train.every.log=1,train.every.caption_examples=0,train.optimizer.warmup_samples=0"
    kedro(project, "--env", "smoke", "--pipelines", "train", "--params", f"{short},{parameters}")
    (made,) = set((project / RUNS).glob("*/run_spec.json")) - before
    return made.parent


def test_two_runs_of_one_project(project: Path) -> None:
    kedro(project, "--env", "smoke", "--pipelines", "prepare")
    first = train(project, "train.seed=1,train.batch_size=16")
    shutil.move(first, project / "kept")
    again = train(project, "train.seed=1,train.batch_size=16")
    other = train(project, "train.seed=2,train.batch_size=32,train.launch.loader_workers=1")

    equal = kedro(project, "--env", "smoke", "kept", again.name, "--runs", command="compare")
    assert "Nothing that is recorded and could change the result differs." in equal
    assert "The same: parameters, data, code, versions, hardware." in equal
    assert "The curves are equal at all 4 common steps." in equal
    assert "finished at step 4" in equal

    runs = [run.info.run_id for run in client(project).search_runs(["1"])]
    by_seed = {client(project).get_run(run).data.params["train.seed"]: f"runs:/{run}" for run in runs}
    for sides in (("kept", str(other.relative_to(project))), (by_seed["1"], by_seed["2"], "--runs")):
        output = kedro(project, "--env", "smoke", *sides, command="compare")
        assert "The two differ in: batch size (16, 32), seed (1, 2)." in output
        assert "The same: data, code, versions, hardware." in output
        assert re.search(r"train.launch.loader_workers +0 +1 .*does not change what is trained", output)
        assert "The curves part at step 1: loss/total is " in output
        html = (project / "data/smoke/08_reporting/run_comparison.html").read_text()
        assert html.count("<svg") > 8

    # Models are compared item by item as before, and these two were not evaluated.
    for sides, message in (
        ((by_seed["1"], by_seed["2"]), "or compare the trainings with --runs"),
        (("kept", "nowhere"), f"nowhere: no run; give runs:/ID.*{other.name}"),
    ):
        line = [sys.executable, "-m", "kedro", "compare", "--env", "smoke", *sides]
        done = subprocess.run(line, cwd=project, capture_output=True, text=True)
        assert done.returncode == 2
        assert re.search(message, " ".join(done.stderr.split()))
        assert "Traceback" not in done.stderr
