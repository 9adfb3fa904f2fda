"""Ranks started by torchrun, by the SLURM script and by the Kubernetes manifest, and a launcher that monitors them."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf, losses
from tests.servers import free_port, wait_for

from clips_pipeline.training.events.event_log import Event, EventReader, read_all
from clips_pipeline.training.launch import monitor
from clips_pipeline.training.launch.heartbeat import read_heartbeats
from clips_pipeline.training.launch.launcher import TrainingFailedError, TrainingResult, launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


class LauncherThread:
    """`launch` in a thread, as in the training node."""

    def __init__(self, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[str] = []
        self.events: list[Event] = []
        self.outcome: TrainingResult | None = None
        self.error: Exception | None = None
        monkeypatch.setattr("clips_pipeline.training.launch.launcher.print_commands", self.shown.append)
        self._thread = threading.Thread(target=self._run, args=(spec,))
        self._thread.start()
        wait_for(lambda: self.shown or not self._thread.is_alive())

    def _run(self, spec: RunSpec) -> None:
        try:
            self.outcome = launch(spec, self.events.append)
        except TrainingFailedError as error:
            self.error = error

    def join(self) -> "LauncherThread":
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()
        return self


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes: subprocess.Popen[str], code: int = 0) -> str:
    printed = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(printed)
    return "\n".join(printed)


def assert_as_usual(spec: RunSpec, usual: RunSpec, waiting: LauncherThread) -> None:
    waiting.join()
    assert waiting.outcome is not None
    assert waiting.outcome.finished
    assert waiting.outcome.metrics
    assert losses(spec) == losses(usual)
    found, expected = (load_file(Path(each.model_folder) / "model.safetensors") for each in (spec, usual))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_others_may_start_the_ranks(
    spec_of: SpecOf, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = spec_of("usual", launch={"processes": 2})
    launch(usual, lambda event: None)
    elsewhere = {"launch": {"processes": 2, "start": False, "rank_timeout_s": 10.0}}

    by_torchrun = spec_of("torchrun", **elsewhere)
    waiting = LauncherThread(by_torchrun, monkeypatch)
    command = next(line for line in waiting.shown[0].splitlines() if "--standalone" in line)
    finish(start(*shlex.split(command)))
    assert_as_usual(by_torchrun, usual, waiting)
    # A finished training needs no ranks.
    again = LauncherThread(by_torchrun, monkeypatch).join()
    assert again.shown == []
    assert again.outcome is not None
    assert again.outcome.finished

    by_slurm = spec_of("slurm", **elsewhere)
    waiting = LauncherThread(by_slurm, monkeypatch)
    command = next(line for line in waiting.shown[0].splitlines() if line.startswith("sbatch"))
    given = dict(pair.split("=", 1) for pair in shlex.split(command)[1].removeprefix("--export=ALL,").split(","))
    script = repository / shlex.split(command)[-1]
    finish(start("bash", str(script), **given, **slurm(tmp_path / "stand-ins")))
    assert_as_usual(by_slurm, usual, waiting)

    by_kubernetes = spec_of("kubernetes", **elsewhere)
    waiting = LauncherThread(by_kubernetes, monkeypatch)
    path = str(Path(by_kubernetes.run_folder) / "run_spec.json")
    finish(*pods(repository / "examples" / "kubernetes.yaml", SPEC=path, GPUS="1"))
    assert_as_usual(by_kubernetes, usual, waiting)


def slurm(folder: Path) -> dict[str, str]:
    """Return the environment of a SLURM job, with stand-ins that start one task for each of two nodes on this machine."""
    folder.mkdir()
    (folder / "scontrol").write_text(
        "#!/bin/sh\n[ \"$*\" = 'show hostnames here,there' ] && echo localhost && echo there\n"
    )
    (folder / "srun").write_text(
        """#!/bin/bash
        while [[ $1 == --* ]]; do shift; done
        for i in 0 1; do
            SLURM_PROCID=$i SLURM_LOCALID=0 SLURM_NODEID=$i SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 "$@" &
        done
        wait %1 && wait %2
        """
    )
    for name in ("scontrol", "srun"):
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{ENVIRONMENT['PATH']}",
        "SLURM_JOB_NODELIST": "here,there",
        "SLURM_JOB_ID": str(os.getpid()),
    }


def pods(manifest: Path, **changes: str) -> list[subprocess.Popen[str]]:
    """Start the containers of the manifest's Job as processes, with other values for some of its variables."""
    service, job = yaml.safe_load_all(manifest.read_text())
    template = job["spec"]["template"]["spec"]
    container = template["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert set(changes) <= set(environment)
    host = environment["RENDEZVOUS"].split(":")[0]
    # An Indexed Job names its pods so, and the service without an address makes the names known.
    assert host == f"{job['metadata']['name']}-0.{template['subdomain']}"
    assert service["metadata"]["name"] == template["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    nodes = int(environment["NODES"])
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == nodes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(environment["GPUS"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in template["volumes"]}
    environment |= {"RENDEZVOUS": f"localhost:{free_port()}", **changes}
    return [start(*container["command"], **environment, JOB_COMPLETION_INDEX=str(i)) for i in range(nodes)]


def test_a_rank_that_hangs_elsewhere_is_named_and_the_ranks_go_on(
    spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"samples": 24 * 8, "every": {"checkpoint": 3}}
    usual = spec_of("usual", **changes, launch={"processes": 2})
    launch(usual, lambda event: None)
    spec = spec_of("hung", **changes, launch={"processes": 2, "start": False, "rank_timeout_s": 8.0})
    monkeypatch.setattr(monitor, "RESTART_SECONDS", 3.0)
    waiting = LauncherThread(spec, monkeypatch)
    command = shlex.split(next(line for line in waiting.shown[0].splitlines() if "--standalone" in line))
    torchrun = start(*command)
    reader = EventReader(spec.events)
    wait_for(lambda: any(event["kind"] == "step" and event["step"] >= 5 for event in reader.read()), 60.0)
    os.kill(read_heartbeats(Path(spec.run_folder))[1].pid, signal.SIGSTOP)
    # Nobody here ends the ranks: rank 0 must give up by itself.
    finish(torchrun, code=1)
    assert any(event["kind"] == "error" and "imed out" in event["message"] for event in read_all(spec.events))
    waiting.join()
    shown = str(waiting.error)
    assert re.match(r"rank 1 \(host \S+, pid \d+\) has sent no heartbeat for \d+ s\n", shown), shown
    assert "they resume from the last checkpoint" in shown
    assert not Path(spec.model_folder).exists()
    waiting = LauncherThread(spec, monkeypatch)
    finish(start(*command))
    assert_as_usual(spec, usual, waiting)
    assert next(event for event in waiting.events if event["kind"] == "start")["resumed_from"] is not None
