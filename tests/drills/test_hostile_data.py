"""Structured hostility: every kind of hostile input built here, and a seeded fuzz of headers, contents, tables and indices.

Each part runs in a process of its own, with bounds of memory and time far above what it needs. Counts add up, no process
stays, and nothing outside the output folder changes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("CLIPS_DRILL_CASES", "300"))
"""Cases of each fuzz. Another seed gives other cases."""
SEED = os.environ.get("CLIPS_DRILL_SEED", "0")
LIMIT_S = 900


def _listing(root: Path) -> dict[str, str]:
    """Return the content of every file and link below `root`, except what the run writes."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and not name.startswith(("data/in/", "data/out/")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("part", ["kinds", "headers", "content", "tables", "index"])
def test_hostile_data_is_used_or_skipped_and_harms_nothing(
    part: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    # Short, because processes that share data may open a socket there.
    temporary = Path(tempfile.mkdtemp(prefix="hostile-"))
    (temporary / "victim.txt").write_text("unchanged")
    for name in ("data", "home", "cwd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "victim.txt").write_text("unchanged")
    before = _listing(tmp_path), _listing(temporary)
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(repository),
        "PYTHONDONTWRITEBYTECODE": "1",
        # The bound of memory is one of addresses, which threads reserve on machines with many cores.
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.drills.hostile_run", part, str(data), str(CASES), SEED],
        cwd=tmp_path / "cwd",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=LIMIT_S)
        # A pool's helper process ends by itself once its parent is gone.
        _, left = psutil.wait_procs(_alive(process.pid), timeout=60)
    finally:
        for found in _alive(process.pid):
            found.kill()
    assert process.returncode == 0, errors[-3_000:]
    assert left == []
    assert (_listing(tmp_path), _listing(temporary)) == before
    shutil.rmtree(temporary)
    report = json.loads(out.splitlines()[-1])
    for kind, counts in report["counts"].items():
        skipped = counts["skipped"]
        assert counts["used"] + sum(skipped.values()) == counts["made"], kind
        assert counts["used"] > 0, kind
        assert counts["used"] < counts["made"], kind
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items(), key=lambda item: -item[1]))
        with capsys.disabled():
            print(f"\n{kind}: {counts['made']} made, {counts['used']} used, skipped: {reasons}", end="")
    with capsys.disabled():
        print(f"\n{part}: at most {report['peak_mib']} MiB in a process; counts add up, nothing else changed")


def _alive(session: int) -> list[psutil.Process]:
    return [
        found
        for found in psutil.process_iter(["status"])
        if _session(found.pid) == session and found.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
