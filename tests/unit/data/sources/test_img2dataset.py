"""Shards in place: assignment to splits, fields that are read, and changes of the fingerprint."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.servers import s3_server
from tests.unit.data.samples import record, write_shard
from tests.unit.data.sources.test_recaption import _shard

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.sources.in_place import CopyTask, TarTask
from clips_pipeline.data.sources.source import ShardTask
from clips_pipeline.data.storage.files import Storage, StorageConfig

HERE = Storage(StorageConfig(retries=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        write_shard(tmp_path / f"{number:05d}.tar", [record(2 * number + i) for i in range(2)], "-")
    return tmp_path


def _source(config: Img2datasetConfig, storage: Storage = HERE) -> Img2datasetSource:
    return pickle.loads(pickle.dumps(Img2datasetSource(config, storage)))  # type: ignore[no-any-return]  # noqa: S301


def _items(source: Img2datasetSource, split: Any) -> list[Record | Skip]:
    found: list[Record | Skip] = []
    for task in source.tasks(split):
        assert isinstance(task, TarTask)
        found += CopyTask(task).records()
    return found


def test_the_last_shards_are_held_out(folder: Path) -> None:
    source = _source(Img2datasetConfig(f"{folder}/{{00000..00005}}.tar"))
    assert source.splits == ("train", "validation", "test")
    assert {split: len(source.tasks(split)) for split in source.splits} == {"train": 4, "validation": 1, "test": 1}
    assert _items(source, "train") == [record(number) for number in range(8)]
    assert _items(source, "validation") == [record(10), record(11)]
    assert _items(source, "test") == [record(8), record(9)]


def test_splits_with_addresses_of_their_own(folder: Path) -> None:
    config = from_mapping(
        Img2datasetConfig,
        {
            "train": [f"{folder}/00000.tar::{folder}/00001.tar", f"{folder}/00004.tar"],
            "validation": f"file://{folder}/00002.tar",
            "test": f"{folder}/00003.tar",
        },
        "img2dataset",
    )
    source = _source(config)
    assert [len(source.tasks(split)) for split in source.splits] == [3, 1, 1]
    assert _items(source, "validation") == [record(4), record(5)]


def test_recap_datacomp_names_and_escaped_bytes(tmp_path: Path) -> None:
    facts = {"org_caption": r"Lego\xc2\xae set", "re_caption": "A set. Of bricks.", "clip": 0.3, "label": 2}
    files = [_shard(tmp_path / f"{n}.tar", [(f"{n}", rf"caf\xc3\xa9 {n}", facts)]) for n in range(3)]
    (found,) = _items(_source(Img2datasetConfig(tuple(files))), "train")
    assert isinstance(found, Record)
    assert (found.web_caption, found.synthetic_caption, found.label, found.score) == (
        "café 0",
        "A set. Of bricks.",
        2,
        None,
    )
    fields = SampleFields("org_caption", "re_caption", "clip")
    (found,) = _items(_source(Img2datasetConfig(tuple(files), fields=fields)), "train")
    assert isinstance(found, Record)
    assert (found.web_caption, found.score) == ("Lego® set", 0.3)
    (skip,) = _items(_source(Img2datasetConfig(tuple(files), fields=SampleFields(synthetic="llava"))), "train")
    assert isinstance(skip, Skip)
    assert (skip.reason, skip.key) == (records.EMPTY_SYNTHETIC_CAPTION, "0")


def test_rewritten_shards_come_from_ordinary_tasks(folder: Path) -> None:
    source = _source(Img2datasetConfig(f"{folder}/{{00000..00005}}.tar", rewrite=True))
    (folder / "00001.tar").write_bytes(b"no tar at all")
    tasks = [task for task in source.tasks("train") if not isinstance(task, TarTask)]
    assert len(tasks) == 4
    found = [item for task in tasks for item in task.records()]
    assert [item.reason if isinstance(item, Skip) else item.key for item in found] == [
        "k0000",
        "k0001",
        records.UNREADABLE_SHARD,
        "k0004",
        "k0005",
        "k0006",
        "k0007",
    ]


def test_unreachable_shard_is_an_error_or_a_skip(folder: Path) -> None:
    config = Img2datasetConfig(f"{folder}/{{00000..00005}}.tar", rewrite=True)
    stop, skip = (
        Img2datasetSource(config, HERE),
        Img2datasetSource(config, Storage(StorageConfig(0, unreachable="skip"))),
    )
    (folder / "00001.tar").unlink()
    with pytest.raises(OSError, match=r"00001\.tar: one attempt"):
        _records(stop.tasks("train"))
    reasons = [item.reason for item in _records(skip.tasks("train")) if isinstance(item, Skip)]
    assert reasons == [records.UNREADABLE_SHARD]


def _records(tasks: Any) -> list[Record | Skip]:
    ordinary: list[ShardTask] = list(tasks)
    return [item for task in ordinary for item in task.records()]


def test_the_fingerprint_follows_the_files(folder: Path) -> None:
    config = Img2datasetConfig(f"{folder}/{{00000..00005}}.tar")
    before = _source(config).fingerprint()
    assert _source(config).fingerprint() == before
    assert _source(Img2datasetConfig(config.train, fields=SampleFields(score="s"))).fingerprint() != before
    assert _source(Img2datasetConfig(config.train, held_out=2)).fingerprint() != before
    os.utime(folder / "00003.tar", (1, 1))
    assert _source(config).fingerprint() != before


def test_remote_shards(folder: Path) -> None:
    with s3_server() as s3:
        storage = Storage(StorageConfig(retries=1, back_off_s=0.01), s3.options)
        for number in range(6):
            storage.upload(folder / f"{number:05d}.tar", f"s3://data/shards/{number:05d}.tar")
        source = _source(Img2datasetConfig("s3://data/shards/{00000..00005}.tar"), storage)
        assert _items(source, "train") == [record(number) for number in range(8)]
        first = source.tasks("train")[0]
        assert isinstance(first, TarTask)
        assert first.address == "s3://data/shards/00000.tar"
        before = source.fingerprint()
        storage.upload(folder / "00001.tar", "s3://data/shards/00000.tar")
        assert source.fingerprint() != before


@pytest.mark.parametrize(
    ("changes", "splits", "held"),
    [
        ({"test": "none"}, ("train", "validation"), 1),
        ({"validation": "none"}, ("train", "test"), 1),
        ({"validation": "none", "test": "none"}, ("train",), 0),
    ],
)
def test_a_split_can_be_none(folder: Path, changes: dict[str, str], splits: tuple[str, ...], held: int) -> None:
    source = Img2datasetSource(Img2datasetConfig(f"{folder}/{{00000..00003}}.tar", **changes), Storage())
    assert source.splits == splits
    assert len(source.addresses("train")) == 4 - held
    with pytest.raises(ConfigError, match="twice in train; name it once"):
        Img2datasetSource(Img2datasetConfig(f"{folder}/0000{{0,0}}.tar", validation="none", test="none"), Storage())


def test_the_same_shard_for_validation_and_test_is_refused_for_its_own_reason(folder: Path) -> None:
    one = f"{folder}/00003.tar"
    config = Img2datasetConfig(f"{folder}/{{00000..00002}}.tar", one, one)
    with pytest.raises(ConfigError, match=r"in validation and in test; the test split must not select.*test: none"):
        Img2datasetSource(config, Storage())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "{0..1}.tar"}, "2 shards, of which 2 are held out for validation and test; name more"),
        ({"train": "{00000..00003}.tar", "held_out": 2}, "4 shards, of which 4 are held out"),
        ({"train": "{00000..00003}.tar", "test": "00001.tar"}, r"00001\.tar is in train and in test"),
        ({"train": ["00001.tar", "{00000..00005}.tar"]}, r"00001\.tar is twice in train"),
        ({"train": "{00010..00019}.tar"}, r"source\.img2dataset\.train: .*00010\.tar: one attempt"),
        ({"train": "{00000..00004}.tar", "test": "99999.tar"}, r"source\.img2dataset\.test: .*99999\.tar"),
        ({"train": "{00000..00004.tar"}, "braces do not match"),
        ({"train": "pipe:cat {0..5}.tar"}, r"would run a command in a shell.*allow_pipe"),
        ({"train": "{00000..00004}.tar", "held_out": 0}, "must be at least 1"),
    ],
)
def test_invalid_configurations_are_refused_before_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=message):
        Img2datasetSource(from_mapping(Img2datasetConfig, changes, "source.img2dataset"), HERE)


def test_the_order_of_captioners_counts(folder: Path) -> None:
    orders = ({"a": "x", "b": "y"}, {"b": "y", "a": "x"})
    sources = [
        _source(
            Img2datasetConfig(f"{folder}/{{00000..00005}}.tar", rewrite=rewrite, fields=SampleFields(synthetic=order))
        )
        for order in orders
        for rewrite in (False, True)
    ]
    assert len({source.fingerprint() for source in sources}) == 4
    assert {source.captioners for source in sources} == {("a", "b"), ("b", "a")}
