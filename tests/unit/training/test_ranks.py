"""Processes of a machine, their signs of life, and whom a failure is put down to; no torch."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.servers import wait_for

from clips_pipeline.training.failure import explain, silent
from clips_pipeline.training.ranks import Ranks, log_name
from clips_pipeline.training.signs import LifeSign, Sign, Silence, forget, interval_s, read_signs, silent_after_s

HERE = Sign(0, 2, "node", 11, step=5, doing="backward")
THERE = replace(HERE, rank=1, pid=12, step=4, doing="waiting for a batch")
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")


def ranks_of(code: str, count: int, folder: Path) -> Ranks:
    return Ranks([sys.executable, "-c", code], count, folder, dict(os.environ))


def wait(ranks: Ranks) -> None:
    wait_for(lambda: not ranks.running(), 30.0)


def test_every_rank_learns_its_place_and_writes_its_own_log(tmp_path):
    code = f"import os; print(*(os.environ[name] for name in {NAMES}), os.environ['MASTER_PORT'].isdigit())"
    with ranks_of(code, 3, tmp_path) as ranks:
        wait(ranks)
        assert ranks.failed() is None
    for rank in range(3):
        assert (tmp_path / log_name(rank)).read_text().split() == f"{rank} {rank} 3 3 0 127.0.0.1 True".split()


def test_the_place_is_not_that_of_a_job_around_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with ranks_of("import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])", 1, tmp_path) as ranks:
        wait(ranks)
    assert (tmp_path / "worker.log").read_text() == "0 1\n"


def test_one_that_a_signal_ends_is_to_blame_and_none_is_left_behind(tmp_path):
    # Rank 1 kills itself; its peer sees that and fails by itself; rank 2 does not want to end.
    code = """if True:
        import os, pathlib, signal, sys, time
        rank, mark = os.environ["RANK"], pathlib.Path(os.environ["MARK"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (mark / rank).write_text(str(os.getpid()))
        while len(list(mark.iterdir())) < 3: time.sleep(0.01)
        if rank == "1": os.kill(os.getpid(), signal.SIGKILL)
        if rank == "0": sys.exit(3)
        time.sleep(600)
    """
    mark = tmp_path / "pids"
    mark.mkdir()
    environment = {**os.environ, "MARK": str(mark)}
    with Ranks([sys.executable, "-c", code], 3, tmp_path, environment) as ranks:
        wait(ranks)
        assert ranks.failed() == (1, -signal.SIGKILL)
        ranks.end(grace_s=0.2)
    assert not any(Path(f"/proc/{file.read_text()}").exists() for file in mark.iterdir())


def test_signs_come_while_the_process_lives_and_tell_what_it_does(tmp_path):
    silence = Silence(tmp_path)
    with LifeSign(tmp_path, 1, 2, every_s=0.02) as life:
        first = read_signs(tmp_path)[0]
        assert (first.rank, first.ranks, first.pid, first.doing) == (1, 2, os.getpid(), "starting")
        life.at(3, "forward")
        wait_for(lambda: read_signs(tmp_path)[0].step == 3, 10.0)
        told = read_signs(tmp_path)[0].told
        wait_for(lambda: read_signs(tmp_path)[0].told > told, 10.0)
        life.failed("no memory")
        assert read_signs(tmp_path)[0].error == "no memory"
        assert not read_signs(tmp_path)[0].over
    assert read_signs(tmp_path)[0].over
    silence.look()
    time.sleep(0.1)
    assert silence.look()[1][1] >= 0.1
    forget(tmp_path)
    assert silence.look() == {}


def test_signs_of_a_wider_start_before_are_left_out(tmp_path):
    for rank, ranks in ((3, 4), (0, 2), (1, 2)):
        with LifeSign(tmp_path, rank, ranks, every_s=1.0):
            pass
    assert [sign.rank for sign in read_signs(tmp_path)] == [0, 1]


def test_a_folder_that_cannot_be_written_is_no_sign_of_death(tmp_path):
    with LifeSign(tmp_path, 0, 1, every_s=0.02):
        # What is written aside cannot be: its name is taken by a folder.
        (tmp_path / "ranks" / "0.tmp").mkdir()
        told = read_signs(tmp_path)[0].told
        wait_for(lambda: read_signs(tmp_path)[0].told > told, 10.0)


@pytest.mark.parametrize("timeout_s", [1.0, 10.0, 300.0])
def test_silence_is_known_before_the_time_is_over(timeout_s):
    assert 3 * interval_s(timeout_s) < timeout_s
    assert silent_after_s(timeout_s) >= 3 * interval_s(timeout_s)


def test_the_longest_silence_counts_unless_that_rank_has_ended():
    heard = {0: (HERE, 1.0), 1: (THERE, 9.0)}
    assert silent(heard, 10.0) is None
    assert silent(heard, 5.0) == 1
    assert silent({**heard, 1: (replace(THERE, over=True), 9.0)}, 5.0) is None


def test_the_cause_stands_first(tmp_path):
    log = tmp_path / "worker-1.log"
    log.write_text("\n".join(f"line {i}" for i in range(40)))
    lost = replace(HERE, error="RuntimeError: Connection closed by peer", failed_at=2.0)
    full = replace(THERE, error="OSError: no space", failed_at=1.0)
    said = "RuntimeError: Connection closed by peer"

    hung = explain({0: (lost, 0.0), 1: (THERE, 9.4)}, 1, (0, 1), said, {1: log})
    assert hung.startswith("rank 1 (host node, pid 12) has given no sign of life for 9 s\nWhere the ranks")
    assert hung.index("rank 1 (host node, pid 12): step 4, waiting for a batch") < hung.index("): step 5, backward")
    assert hung.endswith("line 38\nline 39")
    assert "line 24\n" not in hung
    killed = explain({0: (lost, 0.0), 1: (THERE, 0.1)}, None, (1, -9), said, {})
    assert killed.startswith("rank 1 (host node, pid 12) was killed by SIGKILL (the system kills so when memory")
    own = explain({0: (lost, 0.0), 1: (full, 0.1)}, None, (0, 1), said, {})
    assert own.startswith("rank 1 (host node, pid 12) failed: OSError: no space\n")
    early = explain({}, None, (1, 1), None, {1: tmp_path / "none.log"})
    assert early == f"rank 1 ended with exit code 1\nIt wrote nothing to {tmp_path / 'none.log'}."


def test_what_is_nobodys_fault_names_no_rank():
    wrong = [replace(sign, error="train.x: bad", failed_at=1.0) for sign in (HERE, THERE)]
    both = {sign.rank: (sign, 0.0) for sign in wrong}
    assert explain(both, None, (0, 1), "train.x: bad", {}) == "train.x: bad"
    assert explain({0: both[0]}, None, (0, 1), "train.x: bad", {}) == "train.x: bad"
