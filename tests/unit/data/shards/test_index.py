"""The index round-trips, including shards in place and samples left out."""

import gc
import json
import os
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.samples import record, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards import index as index_module
from clips_pipeline.data.shards import sample_offsets
from clips_pipeline.data.shards.index import Index, ShardEntry, find_missing_or_changed, load_index
from clips_pipeline.data.shards.reader import ShardSet, eval_samples
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.shards.tar_file import TarFile

ENTRY = ShardEntry("train/00000.tar", 3, 4096, "a" * 64, "b" * 64)


def _index(**changes: Any) -> Index:
    facts: dict[str, Any] = {"fingerprint": "f", "splits": {"train": (ENTRY,)}, "skips": {"train": {"bad": 1}}}
    return Index(**(facts | changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", "abc/../../../victim"), ("sha256", "A" * 64), ("keys_digest", ""), ("samples", -1), ("bytes", -1)],
)
def test_an_index_of_somebody_else_names_no_files_by_its_digests(tmp_path: Path, key: str, value: object) -> None:
    _index().save(tmp_path)
    file = tmp_path / "index.json"
    content = json.loads(file.read_text())
    content["splits"]["train"][0][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"index\.json\.splits\.train\[0\]\.{key}"):
        load_index(tmp_path)


def test_index_round_trip(tmp_path: Path) -> None:
    far = ShardEntry("s3://bucket/ü.tar", 2, 10, "c" * 64, "d" * 64)
    made = _index(
        splits={"train": (ENTRY, far), "test": (ENTRY,)},
        examples=("train bad k: <&\n",),
        fields=SampleFields("org_caption", "llava", "score"),
    )
    made.save(tmp_path)
    assert load_index(tmp_path) == made
    before = (tmp_path / "index.json").read_bytes()
    made.save(tmp_path)
    assert (tmp_path / "index.json").read_bytes() == before
    # One line per shard, for readable diffs.
    assert sum(b'"sha256"' in line for line in before.splitlines()) == 3


@pytest.mark.parametrize("splits", [{}, {"train": ()}])
def test_empty_index(tmp_path: Path, splits: dict[str, Any]) -> None:
    _index(splits=splits).save(tmp_path)
    assert load_index(tmp_path).splits == splits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("splits"), r"index\.json\.splits: missing"),
        (lambda found: found.update(splits=[]), r"splits: expected a mapping"),
        (lambda found: found["splits"].update(train={}), r"splits\.train: expected a list.*found dict"),
        (
            lambda found: found["splits"]["train"][0].update(samples="3"),
            r"train\[0\]\.samples: expected a whole number.*'3'",
        ),
        (
            lambda found: found["splits"]["train"][0].update(samples=True),
            r"train\[0\]\.samples: expected a whole number.*True",
        ),
        (lambda found: found["splits"]["train"][0].update(weight=1), r"train\[0\]\.weight: unknown key"),
        (lambda found: found["splits"]["train"][0].pop("bytes"), r"train\[0\]\.bytes: missing"),
        (lambda found: found.update(color=1), r"index\.json\.color: unknown key"),
    ],
)
def test_invalid_index_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    _index().save(tmp_path)
    found = json.loads((tmp_path / "index.json").read_text())
    change(found)
    (tmp_path / "index.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=message):
        load_index(tmp_path)


@pytest.fixture
def in_place(tmp_path: Path) -> tuple[Path, list[Any]]:
    """A shard of twelve samples in another folder, and an index without samples 0, 5 and 11."""
    made = [record(number) for number in range(12)]
    (tmp_path / "elsewhere").mkdir()
    entry = write_shard(tmp_path / "elsewhere" / "a.tar", made, str(tmp_path / "elsewhere" / "a.tar"))
    use = np.array([number not in (0, 5, 11) for number in range(12)])
    folder = tmp_path / "index"
    folder.mkdir()
    before = ShardEntry("elsewhere", 2, 1, "0" * 64, "0" * 64)
    _index(splits={"test": (before,), "train": (ShardEntry(entry.path, 9, entry.bytes, entry.sha256, "0" * 64),)}).save(
        folder
    )
    with TarFile(Path(entry.path)) as tar:
        sample_offsets.save(folder, [bytes(2 * 8), sample_offsets.to_bytes(tar.spans[use])])
    return folder, [made[number] for number in range(12) if use[number]]


def test_samples_left_out_of_a_shard_in_place_are_not_read(in_place: tuple[Path, list[Any]]) -> None:
    folder, wanted = in_place
    shards = ShardSet(folder, "train")
    assert shards.samples == [9]
    assert [shards.read(0, row) for row in range(9)] == wanted
    shards.close()
    assert list(eval_samples(folder, "train")) == wanted


@pytest.mark.parametrize("damage", [None, b"", bytes(10 * 8), bytes(12 * 8)])
def test_mismatched_spans_are_refused(in_place: tuple[Path, list[Any]], damage: bytes | None) -> None:
    folder, _ = in_place
    if damage is None:
        (folder / "spans.bin").unlink()
    else:
        (folder / "spans.bin").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"spans\.bin: missing, or does not match"):
        ShardSet(folder, "train")


def test_spans_beyond_two_terabytes_are_refused() -> None:
    found = np.array([[0, 2**32 - 1]])
    assert sample_offsets.from_bytes(sample_offsets.to_bytes(found)).tolist() == found.tolist()
    with pytest.raises(ConfigError, match="larger than 2 TiB"):
        sample_offsets.to_bytes(found + 1)


def test_missing_and_changed_shards_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_STATS_PER_TASK", 7)
    shards = []
    for number in range(50):
        (tmp_path / f"{number}.tar").write_bytes(b"x" * number)
        shards.append(ShardEntry(f"{number}.tar", 1, number, "", ""))
    assert find_missing_or_changed(shards, tmp_path) == []
    (tmp_path / "13.tar").unlink()
    (tmp_path / "40.tar").write_bytes(b"x")
    problems = find_missing_or_changed([*shards, ShardEntry("s3://bucket/a.tar", 1, 1, "", "")], tmp_path)
    assert problems == [
        f"{tmp_path}/13.tar is missing",
        f"{tmp_path}/40.tar has 1 bytes, the index says 40",
    ]


def test_remote_shards_need_a_cache(tmp_path: Path) -> None:
    _index(splits={"train": (ShardEntry("s3://bucket/a.tar", 1, 1, "0" * 64, "0" * 64),)}).save(tmp_path)
    with pytest.raises(ConfigError, match=r"s3://bucket/a\.tar is not on this machine"):
        ShardSet(tmp_path, "train")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 5_000 + ".tar", r"cannot be read \(File name too long\)"),
        ("a\0b.tar", r"cannot be read \(.*embedded null (byte|character).*\)"),
        ("fifo.tar", "is not a regular file"),
        (".", "is not a regular file"),
    ],
)
def test_a_foreign_path_is_a_problem_and_no_other_error(tmp_path: Path, path: str, message: str) -> None:
    os.mkfifo(tmp_path / "fifo.tar")
    (problem,) = find_missing_or_changed([ShardEntry(path, 1, 0, "0" * 64, "0" * 64)], tmp_path)
    assert re.search(message, problem)
    assert len(problem) < 500


def test_an_index_in_use_is_parsed_once_and_a_changed_one_again(tmp_path: Path) -> None:
    _index().save(tmp_path)
    first = load_index(tmp_path)
    assert load_index(tmp_path) is first
    _index(fingerprint="g").save(tmp_path)  # the same size, perhaps in the same instant
    changed = load_index(tmp_path)
    assert (first.fingerprint, changed.fingerprint) == ("f", "g")
    held = weakref.ref(changed)
    del changed
    gc.collect()
    assert held() is None
