"""Shards joined with caption tables: exact, streamed, and counted on both sides."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import s3_server
from tests.unit.data.samples import image_bytes

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.sources.caption_table import CaptionTable, TableRow
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.sources.table_build import build_table
from clips_pipeline.data.sources.table_rows import TableColumns, TableReader
from clips_pipeline.data.storage.files import Storage, StorageConfig

HERE = Storage(StorageConfig(retries=0))


def _shard(file: Path, samples: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Write a shard like img2dataset: image, web caption, JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number, (key, web, facts) in enumerate(samples):
            parts = (
                (".jpg", image_bytes(number, kind="JPEG")),
                (".txt", web.encode()),
                (".json", json.dumps(facts).encode()),
            )
            for ending, content in parts:
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(file)


def _table(file: Path, rows: dict[str, Any]) -> str:
    pq.write_table(pa.table(rows), file, row_group_size=3)
    return str(file)


def _build(tmp_path: Path, tables: list[str], **changes: Any) -> CaptionTable:
    options: dict[str, Any] = {"key": "key", "columns": TableColumns(), "memory_mib": 128}
    return build_table(tables, HERE, tmp_path / "table", **(options | changes))


def _text(row: TableRow | None) -> str | None:
    return None if row is None else row.values["s0"]


def test_rows_are_found_by_key(tmp_path: Path) -> None:
    first = _table(tmp_path / "a.parquet", {"key": ["1", "2", "é"], "re_caption": ["one", "two", "É."]})
    second = _table(tmp_path / "b.parquet", {"key": ["3", "2", None, "5"], "re_caption": ["three", "again", "x", " "]})
    table = pickle.loads(pickle.dumps(_build(tmp_path, [first, second])))  # noqa: S301
    found = {key: table.find(key) for key in ("1", "2", "é", "3", "4", "5", "")}
    assert {key: _text(row) for key, row in found.items()} == {
        "1": "one",
        "2": "two",
        "é": "É.",
        "3": "three",
        "4": None,
        "5": None,
        "": None,
    }
    assert sorted(row.number for row in found.values() if row) == [0, 1, 2, 3]
    assert (table.counts.rows, table.counts.repeated, table.counts.empty) == (4, 1, 2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), min_size=1, max_size=60))
def test_equal_to_a_dict(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    folder = tmp_path_factory.mktemp("table")
    captions = pa.array([str(number) for number in range(len(keys))], pa.string())
    file = _table(folder / "a.parquet", {"key": pa.array(keys, pa.string()), "re_caption": captions})
    wanted: dict[str, str] = {}
    for number, key in enumerate(keys):
        wanted.setdefault(key, str(number))
    table = _build(folder, [file])
    found = {key: row for key in {*keys, "no", "\udcff"} if (row := table.find(key))}
    assert {key: _text(row) for key, row in found.items()} == wanted
    assert (table.counts.rows, table.counts.repeated) == (len(wanted), len(keys) - len(wanted))
    # The numbers count the rows that can be found.
    assert sorted(row.number for row in found.values()) == list(range(len(wanted)))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            {"key": ["1"], "re_caption": ["a"]},
            {"columns": TableColumns(web="org")},
            r"no column 'org' \(it has: key, re_caption\)",
        ),
        ({"key": ["1"], "re_caption": ["a"]}, {"key": "sha256"}, "no column 'sha256'"),
        ({"key": [1], "re_caption": ["a"]}, {}, "column 'key' holds int64; name a column that holds text"),
        (
            {"key": ["1"], "re_caption": ["a"], "s": ["x"]},
            {"columns": TableColumns(score="s")},
            "'s' holds string; name a column that holds numbers",
        ),
    ],
)
def test_tables_of_another_shape_are_refused(
    tmp_path: Path, rows: dict[str, list[Any]], changes: dict[str, Any], message: str
) -> None:
    file = _table(tmp_path / "a.parquet", rows)
    with pytest.raises(ConfigError, match=message):
        _build(tmp_path, [file], **changes)
    assert not (tmp_path / "table").exists()


def test_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("key,re_caption\n")
    with pytest.raises(ConfigError, match=r"a\.parquet: not a Parquet file"):
        _build(tmp_path, [str(tmp_path / "a.parquet")])
    with pytest.raises(ConfigError, match="holds no complete table"):
        CaptionTable(tmp_path / "table")


@pytest.fixture
def source(tmp_path: Path) -> RecaptionSource:
    for number in range(4):
        keys = [f"{number:05d}{row:04d}" for row in range(3)]
        samples = [(key, f"web {key}", {"sha256": f"hash-{key}", "url": "u"}) for key in keys]
        _shard(tmp_path / "shards" / f"{number:05d}.tar", samples)
    every = [f"{number:05d}{row:04d}" for number in range(4) for row in range(3)]
    known = [key for key in every if key != "000000001"]
    _table(tmp_path / "a.parquet", {"key": known[:5], "re_caption": [f"Long {key}." for key in known[:5]]})
    rest = [*known[5:], "999990000", known[0]]
    _table(tmp_path / "b.parquet", {"key": rest, "re_caption": [f"Long {key}." for key in rest]})
    config = RecaptionConfig(f"{tmp_path}/shards/{{00000..00003}}.tar", f"{tmp_path}/*.parquet")
    return RecaptionSource(config, HERE, tmp_path / "work")


def _all(source: RecaptionSource) -> list[Record | Skip]:
    return [item for split in source.splits for task in source.tasks(split) for item in task.records()]


def test_the_join(source: RecaptionSource) -> None:
    assert {split: len(source.tasks(split)) for split in source.splits} == {"train": 2, "validation": 1, "test": 1}
    found = _all(source)
    joined = [item for item in found if isinstance(item, Record)]
    assert [item.reason for item in found if isinstance(item, Skip)] == [records.NO_TABLE_ROW]
    assert len(joined) == 11
    assert all(
        item.synthetic_caption == f"Long {item.key}." and item.web_caption == f"web {item.key}" for item in joined
    )
    wanted = {
        "table_rows_used": 11,
        "table_rows_without_sample": 1,
        "table_rows_repeated": 1,
        "table_rows_empty": 0,
    }
    assert source.notes() == wanted
    # Running tasks twice changes nothing, and the table is not built again.
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    stamp = (source._table().folder / "hashes.bin").stat().st_mtime_ns
    assert _all(again) == found
    assert again.notes() == wanted
    assert (source._table().folder / "hashes.bin").stat().st_mtime_ns == stamp


def test_only_the_shards_of_the_source_count(source: RecaptionSource, tmp_path: Path) -> None:
    _all(source)
    fewer = replace(source.config, train=f"{tmp_path}/shards/{{00000..00002}}.tar")
    other = RecaptionSource(fewer, HERE, tmp_path / "work")
    _all(other)
    # The three rows of the fourth shard were used by the other source, but have no sample in this one.
    assert other.notes() == source.notes() | {"table_rows_used": 8, "table_rows_without_sample": 4}


def test_counts_do_not_depend_on_what_earlier_runs_left(source: RecaptionSource, tmp_path: Path) -> None:
    _all(source)
    wanted = source.notes()
    shutil.rmtree(tmp_path / "work")
    assert source.notes() == wanted


def test_first_row_of_a_frequent_key_is_used(tmp_path: Path) -> None:
    rows = 300
    captions = [f"caption {number}" for number in range(rows)]
    file = _table(tmp_path / "a.parquet", {"key": ["placeholder"] * rows, "re_caption": captions})
    table = _build(tmp_path, [file])
    assert (table.counts.rows, table.counts.repeated) == (1, rows - 1)
    found = table.find("placeholder")
    assert found is not None
    assert _text(found) == "caption 0"


def test_by_hash_with_another_web_caption_and_a_score(tmp_path: Path) -> None:
    made = [("k1", "web", {"sha256": "aa"}), ("k2", "web", {"sha256": "bb"}), ("k3", "web", {})]
    files = [_shard(tmp_path / f"{n}.tar", [(f"{n}{key}", web, facts) for key, web, facts in made]) for n in range(3)]
    rows = {"sha256": ["aa", "bb"], "long": ["A.", "B."], "org": ["new", "newer"], "clip": [0.25, 3.0]}
    table = _table(tmp_path / "a.parquet", rows)
    columns = TableColumns("long", web="org", score="clip")
    source = RecaptionSource(
        RecaptionConfig(tuple(files), table, on="sha256", columns=columns), HERE, tmp_path / "work"
    )
    (task,) = source.tasks("train")
    first, second, third = task.records()
    assert isinstance(first, Record)
    assert (first.key, first.web_caption, first.synthetic_caption, first.score) == ("0k1", "new", "A.", 0.25)
    assert isinstance(second, Record)
    assert second.score == 3.0
    assert isinstance(third, Skip)
    assert third.reason == records.BAD_RECORD


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_row_without_a_web_caption_keeps_that_of_the_sample(tmp_path: Path, ending: str) -> None:
    file = _shard(tmp_path / "0.tar", [(key, f"own {key}", {}) for key in "ab"])
    table = _table(tmp_path / "t.parquet", {"key": ["a", "b"], "re_caption": ["A.", "B."], "org": ["new", None]})
    if ending == "csv":
        table = str(tmp_path / "t.csv")
        Path(table).write_text("key,re_caption,org\na,A.,new\nb,B.,\n")
    config = RecaptionConfig(file, table, "none", "none", columns=TableColumns(web="org"))
    found = _all(RecaptionSource(config, HERE, tmp_path / "work"))
    assert [item.web_caption for item in found if isinstance(item, Record)] == ["new", "own b"]


def test_the_fingerprint_is_that_of_the_time_before_later_options(source: RecaptionSource) -> None:
    """So that data prepared by an earlier version is not prepared again."""
    columns = {"synthetic": source.config.columns.synthetic, "web": source.config.columns.web}
    facts = [
        list(zip(source.tables, HERE.identities(source.tables), strict=True)),
        source.config.on,
        columns | {"score": source.config.columns.score},
        source.limits.max_caption_bytes,
    ]
    facts = [source._samples.fingerprint(), _sha256(facts), source.config.on, source.config.web]
    assert source.fingerprint() == _sha256(facts)


def _sha256(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def test_tables_are_not_read_again_for_another_number_of_conflicts(
    source: RecaptionSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [_table(tmp_path / f"{name}.parquet", {"key": ["k"], "re_caption": [name]}) for name in ("one", "two")]
    allowed: list[int | None] = [0, None, 0]
    configs = [
        replace(source.config, tables=tuple(tables), on="key", columns=TableColumns(), max_conflicts=most)
        for most in allowed
    ]
    refused, used, again = (RecaptionSource(config, HERE, tmp_path / "work") for config in configs)
    with pytest.raises(ConfigError, match=r"1 keys .* different captions, max_conflicts allows 0: 'k' in row 1 of"):
        refused.tasks("train")
    monkeypatch.setattr(TableReader, "batches", None)
    assert used.tasks("train")
    with pytest.raises(ConfigError, match=r"1 keys .* different captions, max_conflicts allows 0; name one table"):
        again.tasks("train")
    assert used.fingerprint() != again.fingerprint()


def test_the_fingerprint_follows_tables_and_columns(source: RecaptionSource, tmp_path: Path) -> None:
    before = source.fingerprint()
    assert RecaptionSource(source.config, HERE, tmp_path / "elsewhere").fingerprint() == before
    assert RecaptionSource(replace(source.config, on="sha256"), HERE, tmp_path / "work").fingerprint() != before
    _table(tmp_path / "b.parquet", {"key": ["1"], "re_caption": ["x"]})
    assert RecaptionSource(source.config, HERE, tmp_path / "work").fingerprint() != before


def test_remote_shards_and_tables(source: RecaptionSource, tmp_path: Path) -> None:
    wanted = _all(source)
    with s3_server() as s3:
        storage = Storage(StorageConfig(retries=1, back_off_s=0.01), s3.options)
        for number in range(4):
            storage.upload(tmp_path / "shards" / f"{number:05d}.tar", f"s3://data/shards/{number:05d}.tar")
        for name in "ab":
            storage.upload(tmp_path / f"{name}.parquet", f"s3://data/tables/{name}.parquet")
        config = RecaptionConfig("s3://data/shards/{00000..00003}.tar", "s3://data/tables/*.parquet")
        assert _all(RecaptionSource(config, storage, tmp_path / "remote")) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": "nowhere/*.parquet"}, r"source\.recaption\.tables: no file matches"),
        ({"train": "nowhere/{0..4}.tar"}, r"source\.recaption\.train: .*nowhere/0\.tar"),
        ({"memory_mib": 1}, "memory_mib: 1 must be at least 128"),
    ],
)
def test_missing_files_are_refused_before_work(
    source: RecaptionSource, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        RecaptionSource(
            from_mapping(RecaptionConfig, to_mapping(source.config) | changes, "recaption"), HERE, tmp_path / "work"
        )
