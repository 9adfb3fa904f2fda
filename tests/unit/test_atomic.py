"""Atomic writes: whole or not at all, and nothing is left over."""

from pathlib import Path

import pytest

from clips_pipeline.atomic import replacing, replacing_folder, temporary_path, write_bytes, write_text


@pytest.mark.parametrize("sync", [False, True])
def test_text_and_bytes_replace_what_was_there(tmp_path: Path, sync: bool) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "first, longer", sync=sync)
    write_text(file, "ü\n", sync=sync)
    assert file.read_bytes() == b"\xc3\xbc\n"
    write_bytes(file, b"\xff", sync=sync)
    assert file.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(type(error)), replacing(file) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        assert file.read_text() == "old"
        raise error
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    temporary_path(file).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a")
    write_text(tmp_path / "atomic", "a")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    with replacing_folder(folder) as temporary:
        (temporary / "old").write_text("old")
    # What a killed process of the same number left.
    temporary_path(folder).mkdir()
    (temporary_path(folder) / "half").write_text("")
    with pytest.raises(RuntimeError), replacing_folder(folder) as temporary:  # noqa: PT012
        (temporary / "new").write_text("new")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replacing_folder(folder) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]
