"""Data of another environment, and data that a training or evaluation reads, is not replaced."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.data.samples import source

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards import folder_lock
from clips_pipeline.data.shards.folder_lock import FolderOwner, claim, lock_for_replacement
from clips_pipeline.data.shards.reader import ShardSet, eval_samples

PHOTOS = FolderOwner("photos", "img2dataset", ("/data/{0..9}.tar",))
SCENES = FolderOwner("other", "scenes")

READ = """
import sys
from pathlib import Path
from clips_pipeline.data.shards.reader import ShardSet
shards = ShardSet(Path(sys.argv[1]), "train")
print("reading", flush=True)
sys.stdin.read()
"""


def test_data_of_another_environment_and_source_is_refused(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    claim(shards, PHOTOS)
    shards.mkdir()
    with pytest.raises(ConfigError) as refused:
        claim(shards, SCENES)
    for part in (
        str(shards),
        "img2dataset (/data/{0..9}.tar)",
        "environment photos",
        "conf/other/globals.yml",
        "delete",
    ):
        assert part in str(refused.value)
    with pytest.raises(ConfigError, match="holds data of the source img2dataset"):
        claim(shards, FolderOwner("other", "img2dataset", ("/elsewhere/{0..9}.tar",)))
    # The same data in another environment, and another source in the same one.
    claim(shards, FolderOwner("other", PHOTOS.kind, PHOTOS.addresses))
    claim(shards, SCENES)
    claim(shards, FolderOwner("third", "scenes"))
    # Deleted, as the message suggests.
    shards.rmdir()
    claim(shards, PHOTOS)


def test_folder_read_by_another_process_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_MAX_WAIT_S", 0.0)
    shards = tmp_path / "shards"
    before = prepare(source(4), shards)
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(shards)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        # Current data needs no lock.
        assert prepare(source(4), shards) == before
        with pytest.raises(ConfigError, match=rf"in use by process {reader.pid} \(.*python.*would replace it"):
            prepare(source(6, name="other"), shards)
        assert len(list(eval_samples(shards, "train"))) == 4
    finally:
        reader.communicate("")
    assert prepare(source(6, name="other"), shards).split_samples("train") == 6


def test_folder_being_replaced_is_not_read(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    prepare(source(4), shards)
    with lock_for_replacement(shards), pytest.raises(ConfigError, match="is being replaced by process"):
        ShardSet(shards, "train")
    assert len(list(eval_samples(shards, "train"))) == 4


def test_reader_in_the_same_process_does_not_block(tmp_path: Path) -> None:
    prepare(source(4), tmp_path / "shards")
    reader = ShardSet(tmp_path / "shards", "train")
    assert prepare(source(6, name="other"), tmp_path / "shards").split_samples("train") == 6
    reader.close()
