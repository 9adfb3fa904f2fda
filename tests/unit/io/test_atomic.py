"""Atomic writes: complete or not at all, without leftovers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clips_pipeline.io.atomic import replace_file, replace_folder, temporary_path, write_bytes, write_text


@pytest.mark.parametrize("sync", [False, True])
def test_text_and_bytes_replace_the_old_content(tmp_path: Path, sync: bool) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "first, longer", sync=sync)
    write_text(file, "ü\n", sync=sync)
    assert file.read_bytes() == b"\xc3\xbc\n"
    write_bytes(file, b"\xff", sync=sync)
    assert file.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(type(error)), replace_file(file) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        assert file.read_text() == "old"
        raise error
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    temporary_path(file).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a")
    write_text(tmp_path / "atomic", "a")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_is_replaced_completely(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    with replace_folder(folder) as temporary:
        (temporary / "old").write_text("old")
    # Left by a killed process with the same process id.
    temporary_path(folder).mkdir()
    (temporary_path(folder) / "half").write_text("")
    with pytest.raises(RuntimeError), replace_folder(folder) as temporary:  # noqa: PT012
        (temporary / "new").write_text("new")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replace_folder(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]


def test_next_write_deletes_files_of_a_killed_process(tmp_path: Path) -> None:
    file, folder = tmp_path / "a[1].txt", tmp_path / "folder"
    code = """
import os, pathlib, signal, sys
from clips_pipeline.io import atomic
with atomic.replace_file(pathlib.Path(sys.argv[1])) as file, atomic.replace_folder(pathlib.Path(sys.argv[2])):
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(file), str(folder)])
    assert len(list(tmp_path.iterdir())) == 2
    of_a_living = tmp_path / temporary_path(file).name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    of_a_living.touch()
    write_text(file, "whole")
    with replace_folder(folder):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([of_a_living, file, folder])


def test_renamed_old_folder_is_kept_while_it_is_the_only_copy(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    gone = subprocess.Popen(["true"])
    gone.wait()
    aside = temporary_path(folder).name.replace(f"-{os.getpid()}-", f"-{gone.pid}-") + ".before"
    (tmp_path / aside).mkdir()
    with pytest.raises(RuntimeError), replace_folder(folder):
        raise RuntimeError
    assert (tmp_path / aside).is_dir()
    for _ in range(2):
        with replace_folder(folder):
            pass
    assert list(tmp_path.iterdir()) == [folder]


def test_failed_rename_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="No such file"), replace_folder(folder) as temporary:
        temporary.rmdir()  # so that the rename fails after the old folder has been renamed
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]
