"""Copies of shards: the next start removes those of killed processes, and no others."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clips_pipeline.io import temporary

HELD = """
import time
from clips_pipeline.io.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "shard").write_bytes(b"a copy")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    temporary._remove_leftovers_once.cache_clear()
    return tmp_path


def test_folders_of_killed_processes_are_removed(folder: Path) -> None:
    for name in ("clips-shard-old", "clips-shard-99999999-x.tar", "other-1-2"):
        (folder / name).mkdir() if "tar" not in name else (folder / name).touch()
    (folder / "clips-shard-99999999-link").symlink_to(folder / "other-1-2")
    kept = {path.name for path in folder.iterdir()}
    environment = {**os.environ, "TMPDIR": str(folder)}
    running = [
        subprocess.Popen([sys.executable, "-c", HELD], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        held = [Path(process.stdout.readline().strip()).name for process in running]  # type: ignore[union-attr]
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        assert (folder / held[0] / "shard").is_file()
        with temporary.temporary_folder() as own:
            assert own.parent == folder
            assert {path.name for path in folder.iterdir()} == {*kept, held[1], own.name}
        assert not own.exists()
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
