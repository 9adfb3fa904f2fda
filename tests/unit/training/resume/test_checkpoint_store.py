"""Checkpoint folders: complete or absent, verified by checksums; the last valid one stays."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.io.disk_errors import CannotWriteError, write_text
from clips_pipeline.training.resume import checkpoint_store
from clips_pipeline.training.resume.checkpoint_store import CHECKSUMS, SPEC, STATE

BYTES = 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a separate file system of 256 KiB, which really fills up."""
    point = tmp_path / "disk"
    point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(point)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def save(folder: Path, step: int, keep: int = 2, size: int = BYTES) -> Path:
    text = (str(step) * size)[:size]
    files = {STATE: checkpoint_store.text_writer(text), SPEC: checkpoint_store.text_writer("{}")}
    return checkpoint_store.save(folder, step, files, keep)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def test_the_latest_is_used_and_the_oldest_is_deleted(folder: Path) -> None:
    assert checkpoint_store.latest_valid(folder) == (None, [])
    for step in (8, 9, 10, 11):
        save(folder, step)
    found, damaged = checkpoint_store.latest_valid(folder)
    assert found is not None
    assert (found.step, found.state.read_text()[:4], damaged) == (11, "1111", [])
    assert names(folder) == {"ba10", "ba11"}


@pytest.mark.parametrize(
    ("harm", "file", "reason"),
    [
        (truncate, STATE, "state.pt has 99999 bytes of 100000"),
        (flip, STATE, "state.pt has another checksum"),
        (remove, STATE, "state.pt is missing"),
        (flip, SPEC, "run_spec.json has another checksum"),
        (truncate, CHECKSUMS, "checksums.json cannot be read"),
        (remove, CHECKSUMS, "checksums.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_used(
    folder: Path, harm: Callable[[Path], None], file: str, reason: str
) -> None:
    save(folder, 2)
    harm(save(folder, 4) / file)
    found, damaged = checkpoint_store.latest_valid(folder)
    assert found is not None
    assert found.step == 2
    assert [(one.folder.name, one.moved_to.name) for one in damaged] == [("ba4", "damaged-ba4")]
    assert reason in damaged[0].reason
    # The step is saved again; the refused checkpoint is not in the way and does not count.
    save(folder, 4)
    assert names(folder) == {"ba2", "ba4", "damaged-ba4"}


def test_every_flipped_bit_is_detected(folder: Path) -> None:
    whole = save(folder, 2, size=64)
    good = {path: path.read_bytes() for path in whole.iterdir()}
    for path, data in good.items():
        for bit in range(8 * len(data)):
            harmed = bytearray(data)
            harmed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(harmed)
            found = checkpoint_store.find_damage(whole)
            # Only white space and the spelling of numbers in the checksum file may change.
            assert found is not None or path.name == CHECKSUMS
            if found is None:
                assert (whole / STATE).read_bytes() == good[whole / STATE]
        path.write_bytes(data)
    assert checkpoint_store.find_damage(whole) is None


def test_if_all_checkpoints_are_damaged_training_does_not_silently_start_again(folder: Path) -> None:
    flip(save(folder, 2) / STATE)
    with pytest.raises(
        ConfigError, match=r"every checkpoint is damaged: .*damaged-ba2: state\.pt .*to train from the beginning"
    ):
        checkpoint_store.latest_valid(folder)


def test_a_truncated_checkpoint_does_not_displace_a_valid_one(folder: Path) -> None:
    save(folder, 2)
    truncate(save(folder, 4) / STATE)
    save(folder, 6)
    assert {"ba2", "ba6"} <= names(folder)


def test_leftovers_of_a_killed_process_are_not_checkpoints(folder: Path) -> None:
    save(folder, 2)
    (folder / ".ba4.writing").mkdir()
    (folder / ".ba4.writing" / STATE).write_bytes(b"half")
    found, damaged = checkpoint_store.latest_valid(folder)
    assert found is not None
    assert (found.step, damaged) == (2, [])
    save(folder, 4)
    assert names(folder) == {"ba2", "ba4"}


@pytest.mark.parametrize("keep", [1, 2])
def test_a_full_disk_is_one_error_and_the_earlier_checkpoint_is_intact(small_disk: Path, keep: int) -> None:
    folder = small_disk / "checkpoints"
    save(folder, 2, keep)
    message = r"checkpoints/ba4: cannot be written: No space left on device \(\d+ MiB free of \d+ there\); make room"
    with pytest.raises(CannotWriteError, match=message):
        save(folder, 4, keep, size=300_000)
    assert names(folder) == {"ba2"}
    assert checkpoint_store.find_damage(folder / "ba2") is None
    save(folder, 4, keep, size=60_000)
    found, _ = checkpoint_store.latest_valid(folder)
    assert found is not None
    assert found.step == 4


def test_a_full_disk_leaves_the_former_text(small_disk: Path) -> None:
    path = small_disk / "run_spec.json"
    write_text(path, "good")
    with pytest.raises(CannotWriteError, match=r"run_spec\.json: cannot be written: No space left"):
        write_text(path, "x" * 400_000)
    assert path.read_text() == "good"
    assert names(small_disk) == {"run_spec.json"}
