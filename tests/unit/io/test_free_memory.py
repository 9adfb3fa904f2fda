"""Free memory under the limits of control groups."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from clips_pipeline.io.free_memory import free_memory

FREE = 10_000  # of the machine
TOP_2 = {"memory.max": "5000\n", "memory.current": "70\n"}
TOP_1 = {"memory/memory.limit_in_bytes": "6000", "memory/memory.usage_in_bytes": "1000"}
JOB_2 = {"slurm/job/memory.max": "3000", "slurm/job/memory.current": "1000"}
JOB_1 = {"memory/slurm/job/memory.limit_in_bytes": "3000", "memory/slurm/job/memory.usage_in_bytes": "1000"}


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (None, {}, FREE),
        (None, {"memory.max": "max", "memory.current": "70"}, FREE),
        (None, TOP_2, 4_930),
        ("0::/\n", TOP_2, 4_930),
        (None, {"memory.max": "50", "memory.current": "70"}, 0),
        (None, {"memory.max": "90000", "memory.current": "70"}, FREE),
        (None, TOP_1, 5_000),
        # Cached files.
        (None, {**TOP_2, "memory.stat": "anon 9\ninactive_file 40\nactive_file 5\n"}, 4_970),
        (None, {**TOP_1, "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n"}, 5_300),
        (None, {**TOP_2, "memory.stat": "anon 9\n"}, 4_930),
        # A batch job in a group of its own, with the smaller limit, and with the larger one.
        ("0::/slurm/job\n", JOB_2, 2_000),
        ("0::/slurm/job/step\n", {**TOP_2, **JOB_2}, 2_000),
        ("0::/slurm/job\n", {"memory.max": "900", "memory.current": "0", **JOB_2}, 900),
        ("5:devices:/\n4:cpu,memory:/slurm/job\n0::/\n", JOB_1, 2_000),
        # A container that sees its own group as the topmost one.
        ("0::/docker/1f\n", TOP_2, 4_930),
        ("4:memory:/docker/1f\n", TOP_1, 5_000),
    ],
)
def test_the_smallest_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content)
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert free_memory(tmp_path / "cgroup", tmp_path / "own") == expected


def test_this_machine_has_some() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total
