"""`kedro run --pipelines llava_probe` in a copy of the project: killed, resumed, and its outputs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.kedro_project import client, kedro

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]
PROBE = ("--pipelines", "llava_probe", "--env", "smoke", "--params", "llava_probe.parallel_runs=1")


def test_a_killed_probe_resumes_and_loses_no_result(project: Path) -> None:
    kedro(project, "--pipelines", "prepare", "--env", "smoke")
    folder = project / "data/smoke/07_model_output"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (project / "probe.log").open("wb") as output:
        command = [sys.executable, "-m", "kedro", "run", *PROBE]
        running = subprocess.Popen(command, cwd=project, stdout=output, stderr=subprocess.STDOUT, env=environment)
    while running.poll() is None and not list(folder.glob("llava_probe/results/*.json")):
        time.sleep(0.1)
    assert running.poll() is None, (project / "probe.log").read_text()
    running.send_signal(signal.SIGKILL)
    assert running.wait(timeout=120) != 0
    done = [*folder.glob("study/results/*.json"), *folder.glob("llava_probe/results/*.json")]
    kept = {path: path.stat().st_mtime_ns for path in done}
    assert len(kept) < 2 + 4  # two towers; probes of them, of an untrained tower, and without images
    said = kedro(project, *PROBE)
    assert len(list(folder.glob("study/results/*.json"))) == 2
    assert len(list(folder.glob("llava_probe/results/*.json"))) == 4
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    report = project / "data/smoke/08_reporting/llava_probe"
    assert f"read the LLaVA probe's summary:\n  {report.relative_to(project) / 'README.md'}\n" in said
    assert "## Conclusion" in (report / "README.md").read_text()
    assert len((report / "accuracy.csv").read_text().splitlines()) == 1 + 4 * 7
    assert (report / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    store = client(project)
    (experiment,) = [one for one in store.search_experiments() if one.name == "clips"]
    run = store.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=["start_time DESC"])[
        0
    ]
    assert run.data.params["llava_probe.vision_layer"] == "-2"
    assert 0 <= run.data.metrics["llava/clips/mean_accuracy"] <= 1
    found = {artifact.path for artifact in store.list_artifacts(run.info.run_id, "llava_probe")}
    assert found == {f"llava_probe/{name}" for name in ("README.md", "accuracy.csv", "accuracy.png")}
