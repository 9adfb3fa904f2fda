"""Shared memory of loader workers: fewer batches ahead where there is little, and one error where there is too little."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.data.loading import shared_memory
from clips_pipeline.data.loading.shared_memory import fitting_prefetch

MIB = 2**20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(free=64 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: found)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return found


def test_batches_that_fit_are_not_changed(free: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    assert fitting_prefetch(2, 4, 16, 64) == 4
    assert fitting_prefetch(0, 4, 10**6, 1000) is None
    assert not caplog.text


def test_fewer_batches_ahead_where_there_is_little(free: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    # A batch of 64 images of 224 pixels is 9.7 MiB: two workers with two batches each and two in use fit.
    with caplog.at_level(logging.WARNING):
        assert fitting_prefetch(2, 4, 64, 224) == 2
    assert re.search(
        r"4 batches ahead need 97 MiB of shared memory, and /dev/shm has 64 MiB free; 2 are used", caplog.text
    )


def test_one_error_with_both_sizes_and_the_remedies(free: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"155 MiB.*for 4 ranks.*64 MiB free; .*--shm-size=2g.*loader_workers to 0"):
        fitting_prefetch(2, 2, 64, 224)


LOADER = """
import sys
import tempfile
from pathlib import Path
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.prepare.run import prepare
from tests.unit.data.samples import LengthReader, source
prepare(source(64, tasks=1), Path(sys.argv[1]))
loader = train_loader(
    Path(sys.argv[1]), "train", LengthReader(), ImageConfig(size=int(sys.argv[2])), global_batch_size=16, workers=2,
    prefetch_batches=4,
)
print(loader.prefetch_factor, sum(len(batch.keys) for batch in loader))
"""


@pytest.mark.parametrize(("size", "printed"), [(112, "4 64"), (192, "1 64"), (448, "ConfigError: .*8 MiB free")])
def test_a_real_small_dev_shm(tmp_path: Path, repository: Path, size: int, printed: str) -> None:
    """8 MiB: a batch of 16 images of 192 pixels is 1.8 MiB, one of 448 is 9.3 MiB."""
    command = (
        f'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "{sys.executable}" -c "$CODE" {tmp_path / "shards"} {size}'
    )
    environment = {
        "CODE": LOADER,
        "PYTHONPATH": f"{repository / 'src'}:{repository}",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, env=environment, timeout=300
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small /dev/shm can be mounted here: {done.stderr}")
    assert re.search(printed, done.stdout + done.stderr), done.stdout + done.stderr
    assert shared_memory.FOLDER.is_dir()


@pytest.mark.parametrize(("length", "fits"), [(75, True), (76, False)])
def test_the_longest_path_for_temporary_files(tmp_path: Path, length: int, *, fits: bool) -> None:
    """Loader workers open a socket there; with a longer path no batch could be sent."""
    with tempfile.TemporaryDirectory(prefix="t-") as short:
        folder = Path(short) / ("x" * (length - len(short) - 1))
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", LOADER, str(tmp_path / "shards"), "8"],
            env={**os.environ, "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode == 0) == fits, done.stderr
    assert fits or f"TMPDIR: {folder} has 76 bytes, and the sockets of loader workers allow 75" in done.stderr
