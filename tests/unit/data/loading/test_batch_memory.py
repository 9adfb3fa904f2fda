"""Memory of batches: used again when nobody holds it, for processes started in any way, and none of /dev/shm or TMPDIR."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.samples import source

from clips_pipeline.data.loading.anonymous_memory import AnonymousMemory
from clips_pipeline.data.loading.batch_memory import BatchMemory
from clips_pipeline.data.prepare.run import prepare

SHAPE = (2, 3, 4, 4)


def test_a_place_is_used_again_when_nobody_holds_it() -> None:
    memory = BatchMemory(2, SHAPE)
    first, second = memory.take(), memory.take()
    assert first is not None
    assert second is not None
    assert memory.take() is None
    place, row_CHW = first[0], first[1][1]
    memory.pixels(place)[:] = 7
    del first
    assert memory.take() is None  # one of its rows is held
    assert row_CHW.unique().tolist() == [7]
    assert second[1].unique().tolist() == [0]
    del row_CHW
    again = memory.take()
    assert again is not None
    assert again[0] == place
    assert again[1].shape == SHAPE


def test_batches_live_longer_than_their_memory() -> None:
    memory = BatchMemory(1, SHAPE)
    taken = memory.take()
    assert taken is not None
    memory.pixels(taken[0])[:] = np.arange(16, dtype=np.uint8).reshape(4, 4)
    del memory
    assert taken[1][1, 2].flatten().tolist() == list(range(16))


def test_an_error_in_making_memory_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, size: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "ftruncate", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Cannot allocate"):
        AnonymousMemory(10)
    assert len(os.listdir("/proc/self/fd")) == before


LOADER = """
import sys
from pathlib import Path
import torch
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from tests.unit.data.samples import LengthReader

def main():
    if sys.argv[3] != "default":
        torch.multiprocessing.set_start_method(sys.argv[3])
    options = {"global_batch_size": 16, "prefetch_batches": 4}
    found, wanted = (
        list(train_loader(Path(sys.argv[1]), "train", LengthReader(), ImageConfig(size=int(sys.argv[2])), workers=n, **options))
        for n in (int(sys.argv[4]), 0)
    )
    assert [batch.keys for batch in found] == [batch.keys for batch in wanted]
    assert all(torch.equal(one.images_BCHW, other.images_BCHW) for one, other in zip(found, wanted, strict=True))
    print(sum(map(len, found)))

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compares the batches of loader workers with those of none: `python loader.py SHARDS SIZE START_METHOD WORKERS`."""
    folder = tmp_path_factory.mktemp("loader")
    prepare(source(64, tasks=1), folder / "shards")
    (folder / "loader.py").write_text(LOADER)
    return folder / "loader.py"


def _environment(repository: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{repository / 'src'}:{repository}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_workers_that_do_not_start_as_a_copy(script: Path, repository: Path, method: str) -> None:
    done = subprocess.run(
        [sys.executable, script, script.parent / "shards", "8", method, "2"],
        env=_environment(repository),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "64\n", done.stderr


def test_a_small_dev_shm_is_enough(script: Path, repository: Path) -> None:
    """A batch of 16 images of 448 pixels has 9.3 MiB. Locks of Python's queues are in /dev/shm."""
    run = f'exec "{sys.executable}" {script} {script.parent / "shards"} 448 default 14'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=1m tmpfs /dev/shm && {run}"],
        env=_environment(repository),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small /dev/shm can be mounted here: {done.stderr}")
    assert done.stdout == "64\n", done.stderr


def test_a_long_path_for_temporary_files(script: Path, repository: Path) -> None:
    """Sockets, by which torch sends tensors to other processes, allow 75 bytes."""
    with tempfile.TemporaryDirectory(prefix="t-") as short:
        folder = Path(short) / ("x" * 90)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, script, script.parent / "shards", "8", "default", "2"],
            env={**os.environ, **_environment(repository), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout == "64\n", done.stderr
