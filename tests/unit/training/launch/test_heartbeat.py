"""Heartbeats, and the rank that a failure is attributed to; no torch."""

import os
import threading
import time
from dataclasses import replace

import pytest
from tests.servers import wait_for

from clips_pipeline.io.atomic import temporary_path
from clips_pipeline.training.launch.failure import explain_failure, restart_reason, silent_rank, tail
from clips_pipeline.training.launch.heartbeat import (
    Heartbeat,
    HeartbeatMonitor,
    HeartbeatWriter,
    interval_s,
    read_heartbeats,
    remove_heartbeats,
    silent_after_s,
)

RANK_0 = Heartbeat(0, 2, "node", 11, step=5, activity="backward")
RANK_1 = replace(RANK_0, rank=1, pid=12, step=4, activity="waiting for a batch")


def test_heartbeats_continue_while_the_process_lives_and_show_its_activity(tmp_path):
    monitor = HeartbeatMonitor(tmp_path)
    with HeartbeatWriter(tmp_path, 1, 2, interval_s=0.02) as writer:
        first = read_heartbeats(tmp_path)[0]
        assert (first.rank, first.world_size, first.pid, first.activity) == (1, 2, os.getpid(), "starting")
        writer.set_activity(3, "forward")
        wait_for(lambda: read_heartbeats(tmp_path)[0].step == 3, 10.0)
        written_at = read_heartbeats(tmp_path)[0].written_at
        wait_for(lambda: read_heartbeats(tmp_path)[0].written_at > written_at, 10.0)
        writer.report_failure("no memory", final_exit_code=1)
        wait_for(lambda: read_heartbeats(tmp_path)[0].error, 10.0)  # the thread may just be writing the state before
        failed = read_heartbeats(tmp_path)[0]
        assert (failed.error, failed.final_exit_code, failed.ended) == ("no memory", 1, False)
    assert read_heartbeats(tmp_path)[0].ended
    monitor.poll()
    time.sleep(0.1)
    assert monitor.poll()[1][1] >= 0.1
    remove_heartbeats(tmp_path)
    assert monitor.poll() == {}


def test_heartbeats_of_an_earlier_start_with_more_ranks_are_left_out(tmp_path):
    for rank, world_size in ((3, 4), (0, 2), (1, 2)):
        with HeartbeatWriter(tmp_path, rank, world_size, interval_s=1.0):
            pass
    assert [heartbeat.rank for heartbeat in read_heartbeats(tmp_path)] == [0, 1]


def test_a_rank_that_has_not_begun_the_latest_attempt_is_not_silent(tmp_path, monkeypatch):
    for rank in (0, 1):
        with HeartbeatWriter(tmp_path, rank, 2, interval_s=1.0):
            pass
    monitor = HeartbeatMonitor(tmp_path)
    assert monitor.poll().keys() == {0, 1}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with HeartbeatWriter(tmp_path, 0, 2, interval_s=1.0):
        assert monitor.poll().keys() == {0}
    assert len(read_heartbeats(tmp_path)) == 2  # for the reason of the restart


def test_the_previous_attempt_of_a_rank_is_known_after_it_has_restarted(tmp_path, monkeypatch):
    for pid_of_1, count in ((21, "0"), (31, "1")):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        monkeypatch.setattr(os, "getpid", lambda pid=pid_of_1: pid)
        with HeartbeatWriter(tmp_path, 1, 2, interval_s=1.0):
            pass
        if count == "0":
            with HeartbeatWriter(tmp_path, 0, 2, interval_s=1.0):
                pass
    monkeypatch.undo()
    assert [(one.rank, one.attempt) for one in read_heartbeats(tmp_path)] == [(0, 0), (1, 1)]
    previous = read_heartbeats(tmp_path, before_attempt=1)
    assert [(one.rank, one.attempt, one.pid) for one in previous] == [(0, 0, 21), (1, 0, 21)]
    (tmp_path / "ranks" / "1.json").unlink()  # as before the first heartbeat of the new attempt
    assert len(read_heartbeats(tmp_path, before_attempt=1)) == 2
    remove_heartbeats(tmp_path)
    assert list((tmp_path / "ranks").iterdir()) == []


def test_a_folder_that_cannot_be_written_does_not_mean_a_dead_rank(tmp_path):
    with HeartbeatWriter(tmp_path, 0, 1, interval_s=0.02) as writer:
        # The thread cannot write its temporary file: a folder has that name.
        (thread,) = (one for one in threading.enumerate() if one.name == "heartbeat")
        temporary = temporary_path(tmp_path / "ranks" / "0.json").name.replace(
            str(threading.get_ident()), str(thread.ident)
        )
        (tmp_path / "ranks" / temporary).mkdir()
        writer.set_activity(7, "forward")
        written_at = read_heartbeats(tmp_path)[0].written_at
        wait_for(lambda: read_heartbeats(tmp_path)[0].written_at > written_at, 10.0)
        assert read_heartbeats(tmp_path)[0].step == 0


@pytest.mark.parametrize("timeout_s", [1.0, 10.0, 300.0])
def test_silence_is_detected_before_the_timeout(timeout_s):
    assert 3 * interval_s(timeout_s) < timeout_s
    assert silent_after_s(timeout_s) >= 3 * interval_s(timeout_s)


def test_the_oldest_heartbeat_counts_unless_that_rank_has_ended():
    heartbeats = {0: (RANK_0, 1.0), 1: (RANK_1, 9.0)}
    assert silent_rank(heartbeats, 10.0) is None
    assert silent_rank(heartbeats, 5.0) == 1
    assert silent_rank({**heartbeats, 1: (replace(RANK_1, ended=True), 9.0)}, 5.0) is None


def test_the_cause_comes_first(tmp_path):
    log = tmp_path / "worker-1.log"
    log.write_text("\n".join(f"line {i}" for i in range(40)))
    lost = replace(RANK_0, error="RuntimeError: Connection closed by peer", failed_at=2.0)
    full = replace(RANK_1, error="OSError: no space", failed_at=1.0)
    message = "RuntimeError: Connection closed by peer"

    hung = explain_failure({0: (lost, 0.0), 1: (RANK_1, 9.4)}, 1, (0, 1), message, {1: log})
    assert hung.startswith("rank 1 (host node, pid 12) has sent no heartbeat for 9 s\nLast heartbeats of the ranks")
    assert hung.index("rank 1 (host node, pid 12): step 4, waiting for a batch") < hung.index("): step 5, backward")
    assert hung.endswith("line 38\nline 39")
    assert "line 24\n" not in hung
    killed = explain_failure({0: (lost, 0.0), 1: (RANK_1, 0.1)}, None, (1, -9), message, {})
    assert killed.startswith("rank 1 (host node, pid 12) was killed by SIGKILL (which the system sends when memory")
    own = explain_failure({0: (lost, 0.0), 1: (full, 0.1)}, None, (0, 1), message, {})
    assert own.startswith("rank 1 (host node, pid 12) failed: OSError: no space\n")
    early = explain_failure({}, None, (1, 1), None, {1: tmp_path / "none.log"})
    assert early == f"rank 1 ended with exit code 1\nIt wrote nothing to {tmp_path / 'none.log'}."


def test_an_error_of_all_ranks_names_no_rank():
    wrong = [replace(one, error="train.x: bad", failed_at=1.0) for one in (RANK_0, RANK_1)]
    both = {one.rank: (one, 0.0) for one in wrong}
    assert explain_failure(both, None, (0, 1), "train.x: bad", {}) == "train.x: bad"
    assert explain_failure({0: both[0]}, None, (0, 1), "train.x: bad", {}) == "train.x: bad"


def test_the_restart_reason_names_a_rank_that_reported_no_error():
    lost = replace(RANK_0, error="RuntimeError: Connection closed by peer", failed_at=2.0, ended=True)
    assert restart_reason([lost, RANK_1]).startswith("rank 1 (host node, pid 12) ended without reporting an error")
    full = replace(RANK_1, error="OSError: no space", failed_at=1.0, ended=True)
    assert restart_reason([lost, full]) == "rank 1 (host node, pid 12) failed: OSError: no space"
    assert restart_reason([]) == "no rank reported an error"


LOADER = """Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/queues.py", line 244, in _feed
    obj = _ForkingPickler.dumps(obj)
ConnectionResetError: [Errno 104] Connection reset by peer
"""


def test_a_lost_connection_of_a_loader_worker_is_left_out_of_the_last_lines(tmp_path):
    log = tmp_path / "stderr.log"
    log.write_text(f"before\n{LOADER}between\n{LOADER}")
    assert tail(log) == "before\nbetween"
    other = "Traceback (most recent call last):\n  File x\nValueError: odd\n"
    log.write_text(f"{other}{LOADER}")
    assert tail(log) == other.strip()
