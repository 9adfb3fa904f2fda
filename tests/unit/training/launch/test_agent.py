"""Torchrun's agent with small ranks that import no torch: environment, output, failures, restarts, signals."""

import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.servers import wait_for

from clips_pipeline.training.config import LaunchConfig, TrainConfig
from clips_pipeline.training.launch import agent_process
from clips_pipeline.training.launch.agent_process import AgentProcess, temporary_folder
from clips_pipeline.training.run_spec import RunSpec

FAKE_AGENT = """
import pathlib, sys
from clips_pipeline.training.launch import agent
agent.RANK_MODULE = "fake_rank"
agent.worker_main.GPU_DRIVER = pathlib.Path({driver!r})
agent.worker_main.load_rank = lambda: None
sys.exit(agent.main(sys.argv[1:]))
"""
HEAD = """
import os, pathlib, signal, sys, time
rank, attempt = os.environ["RANK"], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
mark = pathlib.Path(sys.argv[1]).parent / "marks"
"""


@pytest.fixture(params=["/dev/null", "/nowhere"], ids=["gpu", "cpu"])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that starts an agent whose ranks run the given code: as commands (GPU) or as forks (CPU)."""
    monkeypatch.setattr(agent_process, "AGENT_MODULE", "fake_agent")
    (tmp_path / "marks").mkdir()
    (tmp_path / "fake_agent.py").write_text(FAKE_AGENT.format(driver=request.param))

    def make(code: str, **launch: int) -> AgentProcess:
        (tmp_path / "fake_rank.py").write_text(HEAD + code)
        train = replace(TrainConfig(), launch=LaunchConfig(**launch))
        run = str(tmp_path)
        spec = RunSpec(train, shards="", tokenizer="", run_folder=run, model_folder="", data_version="")
        spec.save(tmp_path / "run_spec.json")
        return AgentProcess(tmp_path / "run_spec.json", {**os.environ, "PYTHONPATH": run})

    return make


def marks(folder: Path) -> dict[str, int]:
    return {path.name: int(path.read_text() or 0) for path in (folder / "marks").iterdir()}


def test_ranks_get_their_environment_and_the_store_listens_on_loopback_only(start, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "7")  # of an enclosing job
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("NODE_RANK", "3")
    code = """
import psutil
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")
print(*(os.environ[name] for name in names))
listening = [one for one in psutil.Process(os.getppid()).net_connections() if one.status == "LISTEN"]
print(*(one.laddr.ip for one in listening), listening[0].laddr.port == int(os.environ["MASTER_PORT"]))
print("to stderr", file=sys.stderr)
"""
    with start(code, processes=4) as agent:
        wait_for(lambda: not agent.is_running(), 60.0)
        assert agent.exit_code == 0
        assert agent.failed_ranks() == {}
        logs = agent.stderr_logs(4)
    for rank in range(4):
        assert logs[rank].read_text() == "to stderr\n"
        expected = [f"{rank} {rank} 4 4 0 127.0.0.1", "127.0.0.1 True"]
        assert logs[rank].with_name("stdout.log").read_text().splitlines() == expected


def test_a_killed_rank_is_reported_and_no_rank_survives(start, tmp_path):
    code = """
(mark / rank).write_text(str(os.getpid()))
while len(list(mark.iterdir())) < 2: time.sleep(0.01)
if rank == "1": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    with start(code, processes=2) as agent:
        wait_for(lambda: not agent.is_running(), 60.0)
        pids = marks(tmp_path)
        assert agent.exit_code == 1
        assert agent.failed_ranks() == {1: (pids["1"], -signal.SIGKILL)}
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


@pytest.mark.parametrize(("restarts", "code"), [(2, 0), (1, 1)])
def test_ranks_are_restarted_as_often_as_allowed(start, tmp_path, restarts, code):
    script = """
(mark / f"{attempt}-{rank}").write_text(str(os.getpid()))
if attempt == 2: sys.exit(0)
if rank == "1": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    with start(script, processes=2, restarts=restarts) as agent:
        wait_for(lambda: not agent.is_running(), 60.0)
        assert agent.exit_code == code
        assert [code for _, code in agent.failed_ranks().values()] == [-signal.SIGKILL] * code
        assert f"attempt_{restarts}" in str(agent.stderr_logs(2)[0])
    assert {name.split("-")[0] for name in marks(tmp_path)} == {str(number) for number in range(restarts + 1)}


def test_a_sigterm_reaches_the_ranks_of_later_attempts(start, tmp_path):
    code = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(mark / str(attempt)).touch()
time.sleep(600)
"""
    with start(code, restarts=2) as agent:
        wait_for(lambda: "0" in marks(tmp_path), 60.0)
        agent.terminate()
        wait_for(lambda: not agent.is_running(), 60.0)
        ((_, found),) = agent.failed_ranks().values()
    assert found in (75, -signal.SIGTERM)  # the latter: it arrived before the handler was installed


def test_ranks_notice_that_their_agent_is_gone(start, tmp_path):
    code = """
(mark / "pid").write_text(str(os.getpid()))
while os.read(0, 1): pass
(mark / "seen").touch()
"""
    with start(code) as agent:
        wait_for(lambda: marks(tmp_path).get("pid"), 60.0)
        psutil.Process(marks(tmp_path)["pid"]).parent().kill()
        wait_for(lambda: not agent.is_running(), 60.0)
        assert agent.exit_code == -signal.SIGKILL
    wait_for(lambda: "seen" in marks(tmp_path) and not psutil.pid_exists(marks(tmp_path)["pid"]), 60.0)


def test_temporary_files_of_a_killed_start_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder(tmp_path / "run") as variables:
        left = Path(variables["TMPDIR"]) / "pymp-left"
        left.mkdir()
    assert not left.exists()
    left.mkdir(parents=True)  # as a killed start would
    with temporary_folder(tmp_path / "run") as again, temporary_folder(tmp_path / "other") as other:
        assert again["TMPDIR"] == variables["TMPDIR"] != other["TMPDIR"]
        assert not left.exists()
        assert Path(again["TMPDIR"]).stat().st_mode & 0o077 == 0
