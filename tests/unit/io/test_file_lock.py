"""Locks beside a target that several processes may make."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from clips_pipeline.io.file_lock import try_lock_target

HOLD = """
import sys, time
from pathlib import Path
from clips_pipeline.io.file_lock import try_lock_target
with try_lock_target(Path(sys.argv[1])) as free:
    print(free, flush=True)
    time.sleep(600)
"""


def test_only_one_process_makes_a_target_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with try_lock_target(target) as free:
            assert not free
    finally:
        process.kill()
        process.communicate()
    with try_lock_target(target) as free:
        assert free


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOLCK, False), (errno.ENOSPC, True)])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    def refuse(self: FileLock, *_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    if raised:
        with pytest.raises(OSError, match="no"), try_lock_target(tmp_path / "x"):
            pass
        return
    with try_lock_target(tmp_path / "x") as free:
        assert free
