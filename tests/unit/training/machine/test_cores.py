"""Cores of a rank: affinity, limits of a container, and other ranks of the machine."""

import json
import os
from pathlib import Path

import pytest
from tests.distributed.ranks import run_ranks

from clips_pipeline.training.machine import cores as cores_module
from clips_pipeline.training.machine.cores import cores_of_rank, own_cores, threads_of_rank


@pytest.mark.parametrize(
    ("mine", "others", "quota", "cores"),
    [
        (range(8), [], None, 8),
        (range(8), [range(8)] * 3, None, 2),  # all ranks may use all cores
        (range(2), [range(2, 4), range(4, 8)], None, 2),  # each has cores of its own
        (range(4), [range(2, 6)], None, 3),  # two of them are shared
        (range(3), [range(3)] * 2, None, 1),
        (range(8), [], 2.5, 2.5),
        (range(8), [range(8)] * 3, 6, 1.5),
        (range(2), [range(2, 4)], 8, 2),
    ],
)
def test_a_shared_core_is_shared_evenly(mine: range, others: list[range], quota: float | None, cores: float) -> None:
    assert cores_of_rank(mine, [mine, *others], quota) == pytest.approx(cores)


@pytest.mark.parametrize(
    ("affinity", "allowed", "cores", "threads"),
    [(8, 8, 8, 8), (8, 3, 3, 3), (1, 1, 1, 1), (128, 16, 16, 16)],
)
def test_the_limit_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, affinity: int, allowed: int, cores: float, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    monkeypatch.setattr(cores_module, "cpu_count", lambda: allowed)
    assert own_cores() == cores
    assert threads_of_rank() == threads


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_ranks_of_a_machine_share_its_cores(tmp_path: Path) -> None:
    worker = Path(__file__).parents[3] / "distributed" / "cores_worker.py"
    run_ranks(worker, 2, tmp_path / "store", tmp_path / "{rank}.json")
    # Rank 0 may use one core, rank 1 this and another one.
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [0.5, 1.5]
