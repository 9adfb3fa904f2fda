"""Signs of life, and whom a failure is put down to; no torch."""

import os
import threading
import time
from dataclasses import replace

import pytest
from tests.servers import wait_for

from clips_pipeline.io.atomic import temporary_path
from clips_pipeline.training.launch.failure import explain, restart_reason, silent, tail
from clips_pipeline.training.launch.heartbeat import (
    Heartbeat,
    HeartbeatMonitor,
    HeartbeatWriter,
    forget,
    interval_s,
    read_heartbeats,
    silent_after_s,
)

HERE = Heartbeat(0, 2, "node", 11, step=5, doing="backward")
THERE = replace(HERE, rank=1, pid=12, step=4, doing="waiting for a batch")


def test_signs_come_while_the_process_lives_and_tell_what_it_does(tmp_path):
    silence = HeartbeatMonitor(tmp_path)
    with HeartbeatWriter(tmp_path, 1, 2, every_s=0.02) as life:
        first = read_heartbeats(tmp_path)[0]
        assert (first.rank, first.ranks, first.pid, first.doing) == (1, 2, os.getpid(), "starting")
        life.at(3, "forward")
        wait_for(lambda: read_heartbeats(tmp_path)[0].step == 3, 10.0)
        told = read_heartbeats(tmp_path)[0].told
        wait_for(lambda: read_heartbeats(tmp_path)[0].told > told, 10.0)
        life.failed("no memory", final=1)
        assert (read_heartbeats(tmp_path)[0].error, read_heartbeats(tmp_path)[0].final) == ("no memory", 1)
        assert not read_heartbeats(tmp_path)[0].over
    assert read_heartbeats(tmp_path)[0].over
    silence.look()
    time.sleep(0.1)
    assert silence.look()[1][1] >= 0.1
    forget(tmp_path)
    assert silence.look() == {}


def test_signs_of_a_wider_start_before_are_left_out(tmp_path):
    for rank, ranks in ((3, 4), (0, 2), (1, 2)):
        with HeartbeatWriter(tmp_path, rank, ranks, every_s=1.0):
            pass
    assert [sign.rank for sign in read_heartbeats(tmp_path)] == [0, 1]


def test_signs_of_the_attempt_before_are_no_silence(tmp_path, monkeypatch):
    for rank in (0, 1):
        with HeartbeatWriter(tmp_path, rank, 2, every_s=1.0):
            pass
    silence = HeartbeatMonitor(tmp_path)
    assert silence.look().keys() == {0, 1}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with HeartbeatWriter(tmp_path, 0, 2, every_s=1.0):
        assert silence.look().keys() == {0}
    assert len(read_heartbeats(tmp_path)) == 2  # for whoever asks why it was started again


def test_how_an_attempt_ended_is_known_also_of_ranks_that_have_begun_again(tmp_path, monkeypatch):
    for pid_of_1, count in ((21, "0"), (31, "1")):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        monkeypatch.setattr(os, "getpid", lambda pid=pid_of_1: pid)
        with HeartbeatWriter(tmp_path, 1, 2, every_s=1.0):
            pass
        if count == "0":
            with HeartbeatWriter(tmp_path, 0, 2, every_s=1.0):
                pass
    monkeypatch.undo()
    assert [(sign.rank, sign.attempt) for sign in read_heartbeats(tmp_path)] == [(0, 0), (1, 1)]
    assert [(sign.rank, sign.attempt, sign.pid) for sign in read_heartbeats(tmp_path, before=1)] == [
        (0, 0, 21),
        (1, 0, 21),
    ]
    (tmp_path / "ranks" / "1.json").unlink()  # between its first sign and the one before
    assert len(read_heartbeats(tmp_path, before=1)) == 2
    forget(tmp_path)
    assert list((tmp_path / "ranks").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_sign_of_death(tmp_path):
    with HeartbeatWriter(tmp_path, 0, 1, every_s=0.02) as life:
        # What the thread writes aside cannot be: its name is taken by a folder.
        (thread,) = (one for one in threading.enumerate() if one.name == "life-sign")
        aside = temporary_path(tmp_path / "ranks" / "0.json").name.replace(
            str(threading.get_ident()), str(thread.ident)
        )
        (tmp_path / "ranks" / aside).mkdir()
        life.at(7, "forward")
        told = read_heartbeats(tmp_path)[0].told
        wait_for(lambda: read_heartbeats(tmp_path)[0].told > told, 10.0)
        assert read_heartbeats(tmp_path)[0].step == 0


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


def test_what_is_said_of_an_attempt_names_who_went_without_a_word():
    lost = replace(HERE, error="RuntimeError: Connection closed by peer", failed_at=2.0, over=True)
    assert restart_reason([lost, THERE]).startswith("rank 1 (host node, pid 12) ended without a word")
    full = replace(THERE, error="OSError: no space", failed_at=1.0, over=True)
    assert restart_reason([lost, full]) == "rank 1 (host node, pid 12) failed: OSError: no space"
    assert restart_reason([]) == "it failed without saying why"


LOADER = """Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/queues.py", line 244, in _feed
    obj = _ForkingPickler.dumps(obj)
ConnectionResetError: [Errno 104] Connection reset by peer
"""


def test_a_loaders_lost_connection_is_left_out_of_the_last_lines(tmp_path):
    log = tmp_path / "stderr.log"
    log.write_text(f"before\n{LOADER}between\n{LOADER}")
    assert tail(log) == "before\nbetween"
    other = "Traceback (most recent call last):\n  File x\nValueError: odd\n"
    log.write_text(f"{other}{LOADER}")
    assert tail(log) == other.strip()
