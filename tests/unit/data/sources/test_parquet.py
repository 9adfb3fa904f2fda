"""Parquet files with images: the published form of a data set, types, splits, damage, and bounded memory."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub_server import hub_server
from tests.servers import http_server, s3_server
from tests.unit.data.samples import image_bytes
from tests.unit.data.sources.test_recaption import HERE

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import ShardSet, eval_samples
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource
from clips_pipeline.data.sources.parquet_columns import ParquetColumns, Selector
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.text.captions import Caption

# The features of `lmms-lab/LLaVA-ReCap-CC3M`.
RECAP = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("data_source", pa.string()),
    ]
)
CAPTION = "conversations[from=gpt].value"
RECAP_COLUMNS = ParquetColumns(web=CAPTION, synthetic={"LLaVA-NeXT-34B": CAPTION}, key="id")


def write_recap(folder: Path, files: int = 3, rows: int = 4) -> None:
    """Write files as `datasets` pushes them: `data/train-00000-of-00003.parquet`."""
    (folder / "data").mkdir(parents=True)
    for number in range(files):
        made = [
            {
                "id": f"{number * rows + row:09d}.jpg",
                "image": {"bytes": image_bytes(number * rows + row, kind="JPEG"), "path": None},
                "conversations": [
                    {"from": "human", "value": "<image>\nDescribe the picture."},
                    {"from": "gpt", "value": f"Caption {number * rows + row}. And more."},
                ],
                "data_source": "cc3m_recap_data",
            }
            for row in range(rows)
        ]
        file = folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(made, RECAP), file, row_group_size=2)


def items(source: ParquetSource, split: str = "train") -> list[Record | Skip]:
    return [item for task in source.tasks(split) for item in task.records()]  # type: ignore[arg-type]


def make(columns: ParquetColumns, *files: Path, **changes: Any) -> ParquetSource:
    options: dict[str, Any] = {"validation": "none", "test": "none"}
    return ParquetSource(ParquetConfig(tuple(map(str, files)), columns, **(options | changes)), HERE)


def write(file: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), file, **options)
    return file


def test_files_of_the_same_name_have_different_keys(tmp_path: Path) -> None:
    """As the hub stores its own Parquet form: `default/train/0000.parquet`, `other/train/0000.parquet`."""
    files = []
    for number, part in enumerate(("v1.0", "v2")):
        (tmp_path / part / "train").mkdir(parents=True)
        rows = {"image": [image_bytes(number)], "x": [f"Caption {number}."], "label": [number]}
        files.append(write(tmp_path / part / "train" / "0000.parquet", rows))
    one, both = make(ParquetColumns(web="x"), files[0]), make(ParquetColumns(web="x"), *files)
    assert [item.key for item in items(one)] == ["0000/000000000"]
    assert [item.key for item in items(both)] == ["v1_0/train/0000/000000000", "v2/train/0000/000000000"]
    assert prepare(both, tmp_path / "shards").split_samples("train") == 2


def test_order_of_captioners_is_in_the_fingerprint(tmp_path: Path) -> None:
    """The first caption of a sample is the one that code which wants one takes."""
    file = write(tmp_path / "a.parquet", {"image": [image_bytes(0)], "x": ["One."], "y": ["Two."]})
    made = [make(ParquetColumns(web="x", synthetic=one), file) for one in ({"A": "x", "B": "y"}, {"B": "y", "A": "x"})]
    first = [next(item for item in items(source) if isinstance(item, Record)).synthetic_caption for source in made]
    assert first == ["One.", "Two."]
    assert made[0].fingerprint() != made[1].fingerprint()


@pytest.mark.parametrize("protocol", ["file", "hf", "http", "s3"])
def test_published_form_of_recap(tmp_path: Path, protocol: str) -> None:
    write_recap(tmp_path / "set")
    with hub_server() as hub, http_server(tmp_path / "set") as http, s3_server() as s3:
        fs = fsspec.filesystem("s3", **s3.options["s3"])
        fs.put(f"{tmp_path}/set/data", f"{s3.bucket}/recap/data", recursive=True)
        hub.add_folder("lmms-lab/LLaVA-ReCap-CC3M", tmp_path / "set")
        roots = {
            "file": str(tmp_path / "set"),
            "hf": "hf://datasets/lmms-lab/LLaVA-ReCap-CC3M@main",
            "http": http.url,
            "s3": f"s3://{s3.bucket}/recap",
        }
        root = f"{roots[protocol]}/data/train-"
        storage = Storage(StorageConfig(retries=0), {"hf": {"endpoint": hub.url, "token": False}, **s3.options})
        files = f"{root}{{00000..00001}}-of-00003.parquet"
        config = ParquetConfig(files, RECAP_COLUMNS, f"{root}00002-of-00003.parquet", "none", rows_per_task=2)
        source = ParquetSource(config, storage)
        assert (source.splits, source.captioners) == (("train", "validation"), ("LLaVA-NeXT-34B",))
        assert [len(source.tasks(split)) for split in source.splits] == [4, 2]
        prepare(source, tmp_path / "shards", processes=2 if protocol == "hf" else 1)
    found = [record for split in source.splits for record in eval_samples(tmp_path / "shards", split)]
    assert [record.key for record in found] == [f"{number:09d}_jpg" for number in range(12)]
    assert [record.image for record in found] == [image_bytes(number, kind="JPEG") for number in range(12)]
    assert [record.extension for record in found] == ["jpg"] * 12
    for number, record in enumerate(found):
        assert record.web_captions == (f"Caption {number}. And more.",)
        assert record.synthetic_captions == (Caption(f"Caption {number}. And more.", "LLaVA-NeXT-34B"),)


def test_splits_by_a_stable_hash(tmp_path: Path) -> None:
    write_recap(tmp_path / "set")
    config = ParquetConfig(f"{tmp_path}/set/data/*.parquet", RECAP_COLUMNS, validation_fraction=0.3, test_fraction=0.3)
    source = ParquetSource(config, HERE)
    wanted = {f"{number:09d}_jpg" for number in range(12)}
    parts = {
        split: {record.key for record in items(source, split) if isinstance(record, Record)} for split in source.splits
    }
    assert all(parts.values())
    assert set.union(*parts.values()) == wanted
    assert sum(map(len, parts.values())) == 12
    # More files move no row to another split.
    write_recap(tmp_path / "more", files=4)
    more = ParquetSource(replace(source.config, train=f"{tmp_path}/more/data/*.parquet"), HERE)
    for split, keys in parts.items():
        assert {record.key for record in items(more, split) if isinstance(record, Record)} & wanted == keys


def test_every_kind_of_column(tmp_path: Path) -> None:
    columns = {
        "picture": [image_bytes(0), image_bytes(1, kind="WEBP")],
        "a.b": ["dotted", "web"],
        "meta": [{"long": ["One.", "Two."], "class": 3}, {"long": None, "class": None}],
        "by": [[{"captioner": "X", "text": "Of X."}], [{"captioner": "Y", "text": "Of Y."}]],
        "human": [["h1", "h2"], []],
        "clip": [0.5, None],
    }
    names = ParquetColumns("picture", "a.b", ("meta.long", "by"), "human", "meta.class", "clip")
    first, second = items(make(names, write(tmp_path / "a.parquet", columns)))
    assert isinstance(first, Record)
    assert (first.key, first.extension, first.web_captions) == ("a/000000000", "png", ("dotted",))
    assert first.synthetic_captions == (
        Caption("One.", "meta.long"),
        Caption("Two.", "meta.long"),
        Caption("Of X.", "X"),
    )
    assert (first.captions, first.label, first.score) == (("h1", "h2"), 3, 0.5)
    assert isinstance(second, Record)
    assert (second.key, second.extension, second.label, second.score) == ("a/000000001", "webp", None, None)
    assert second.synthetic_captions == (Caption("Of Y.", "Y"),)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("c[0].value", "q"),
        ("c[-1].value", "a"),
        ("c[7].value", None),
        ("c[from=gpt].value", ["a"]),
        ("c[from=none].value", []),
        ("c", [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]),
    ],
)
def test_paths(path: str, wanted: object) -> None:
    value = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    selector = Selector.parse(path, ["b", "c"], "file")
    assert (selector.column, selector.pick(value)) == ("c", wanted)
    assert selector.pick(None) in (None, [])


IMAGES = [image_bytes(0), image_bytes(1)]


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"image": IMAGES, "a": ["x", "y"]}, {"web": "b"}, r"no column 'b' \(it has: image, a\); name an existing one"),
        (
            {"image": ["a.jpg", "b.jpg"], "a": ["x", "y"]},
            {"web": "a"},
            r"holds string, so paths or addresses; .* source\.folder",
        ),
        ({"image": [{"path": "a"}] * 2, "a": ["x", "y"]}, {"web": "a"}, r"a struct without bytes \(it has: path\)"),
        (
            {"image": [1, 2], "a": ["x", "y"]},
            {"web": "a"},
            r"column 'image' holds int64; name a column that holds the bytes",
        ),
        (
            {"image": IMAGES, "a": [1, 2]},
            {"web": "a"},
            r"column 'a' holds int64; name a column that holds text or lists",
        ),
        (
            {"image": IMAGES, "a": ["x", "y"]},
            {"captions": "a"},
            r"holds string; .* lists of texts, or name one text as web",
        ),
        ({"image": IMAGES, "a": ["x", "y"]}, {"label": "a"}, r"holds string; name a column that holds class numbers"),
        (
            {"image": IMAGES, "a": ["x", "y"]},
            {"web": "a", "score": "a"},
            r"holds string; name a column that holds numbers",
        ),
        ({"image": IMAGES, "a": [1.5, 2]}, {"web": "a", "key": "a"}, r"column 'a' holds double"),
        ({"image": IMAGES, "a": [["x"], ["y"]]}, {"web": "a.b"}, r"'a' holds list.*, which has no field 'b'"),
        ({"image": IMAGES, "a": ["x", "y"]}, {"web": "a[0]"}, r"'a' holds string, which is no list"),
        ({"image": IMAGES, "a": ["x", "y"]}, {"web": "a[0"}, r"'a\[0' is no path; write COLUMN\.FIELD"),
        (
            {"image": IMAGES, "a": pa.array([None, None], pa.string())},
            {"web": "a"},
            r"column 'a' is empty in all 2 rows",
        ),
        (
            {"image": pa.array([{"bytes": None, "path": "a"}] * 2, RECAP.field("image").type), "a": ["x", "y"]},
            {"web": "a"},
            r"column 'image' is empty in all 2 rows; .*embed the images, of which only paths are there",
        ),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], names: dict[str, str], message: str) -> None:
    file = write(tmp_path / "a.parquet", columns)
    with pytest.raises(ConfigError, match=rf"source\.parquet\.columns: {re.escape(str(file))}: .*{message}"):
        make(ParquetColumns(**names), file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "DIR/*.pq"}, r"source\.parquet\.train: no file matches .*; name Parquet files"),
        (
            {"train": "DIR/gone.parquet"},
            r"source\.parquet\.train: .*gone\.parquet: one attempt, .*; correct the path or address$",
        ),
        ({"test": "DIR/a.parquet"}, r"a\.parquet is in train and in test; name it once"),
        ({"test": "DIR/b.parquet"}, r"source\.parquet\.test: .*b\.parquet: not a Parquet file.*; name Parquet files"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    file = write(tmp_path / "a.parquet", {"image": IMAGES, "web": ["x", "y"]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but no more")
    config = ParquetConfig(str(file), ParquetColumns(web="web"), "none", "none")
    with pytest.raises(ConfigError, match=message):
        ParquetSource(
            replace(config, **{key: text.replace("DIR", str(tmp_path)) for key, text in changes.items()}), HERE
        )


def test_refusal_of_the_hub_is_one_error(tmp_path: Path) -> None:
    write_recap(tmp_path / "set")
    with hub_server() as hub:
        hub.add_folder("owner/set", tmp_path / "set")
        storage = Storage(StorageConfig(retries=0), {"hf": {"endpoint": hub.url, "token": False}})
        for address, message in (
            ("hf://datasets/owner/set@v9/data/*.parquet", r"no such revision \(404\); give a branch"),
            (
                "hf://datasets/owner/other/data/train-00000-of-00003.parquet",
                r"no such repository, or a private one \(401\)",
            ),
        ):
            with pytest.raises(ConfigError, match=rf"source\.parquet\.train: hf://.*{message}"):
                ParquetSource(ParquetConfig(address, RECAP_COLUMNS), storage)


def test_bad_rows_and_damaged_files_are_skipped(tmp_path: Path) -> None:
    rows = {
        "image": [image_bytes(0), None, image_bytes(2), b"x" * 2000, image_bytes(4)],
        "web": ["w", "w", " ", "w", "w"],
        "long": [["L."], ["L."], ["L."], ["L."], list("characters")],
        "key": ["a", "b", "c", "d", "e"],
    }
    first = write(tmp_path / "a.parquet", rows)
    names = ParquetColumns(web="web", synthetic="long", key="key")
    found = items(make(names, first))
    assert [item.reason for item in found if isinstance(item, Skip)] == [
        records.MISSING_IMAGE,
        records.EMPTY_WEB_CAPTION,
        records.BAD_RECORD,
    ]
    assert isinstance(found[4], Skip)
    assert found[4].detail.startswith("column 'long' is a list of the characters of one text ('characters'…)")
    nested = write(tmp_path / "n.parquet", rows | {"long": [[{"from": "gpt", "value": "L."}]] * 5})
    (*_, skip) = (item for item in items(make(names, nested)) if isinstance(item, Skip))
    assert skip.detail == (
        "column 'long' is not text: its list holds a dict that is no caption; a path such as COLUMN[FIELD=VALUE] names one "
        "text in it"
    )
    assert [item.key for item in found if isinstance(item, Record)] == ["a", "d"]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but no more")
    damaged = bytearray(first.read_bytes())
    damaged[10:400] = b"\xff" * 390
    (tmp_path / "c.parquet").write_bytes(damaged)
    found = items(make(names, first, tmp_path / "b.parquet", tmp_path / "c.parquet"))[5:]
    assert [item.reason for item in found if isinstance(item, Skip)] == [
        records.UNREADABLE_SHARD,
        records.TRUNCATED_SHARD,
    ]
    assert [item.key for item in found if isinstance(item, Skip)] == [
        str(tmp_path / "b.parquet"),
        str(tmp_path / "c.parquet"),
    ]


def test_too_large_image_is_skipped(tmp_path: Path) -> None:
    from clips_pipeline.data.limits import SampleLimits

    file = write(tmp_path / "a.parquet", {"image": IMAGES, "web": ["x", "y"]})
    config = ParquetConfig(str(file), ParquetColumns(web="web"), "none", "none")
    found = items(ParquetSource(config, HERE, SampleLimits(max_image_bytes=20)))
    assert {item.reason for item in found if isinstance(item, Skip)} == {records.TOO_LARGE}


BOUNDED = """
import resource, sys
from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource
from clips_pipeline.data.sources.parquet_columns import ParquetColumns
from clips_pipeline.data.storage.files import Storage
source = ParquetSource(ParquetConfig(sys.argv[1], ParquetColumns(web="web"), "none", "none"), Storage())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(task,) = source.tasks("train")
print(sum(len(item.image) for item in task.records()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_depend_on_the_row_group(tmp_path: Path, repository: Path) -> None:
    """One row group of 320 MiB."""
    image = pa.array([os.urandom(1 << 20) for _ in range(32)] * 10)
    web = pa.array([f"web {number}" for number in range(320)])
    pq.write_table(
        pa.table({"image": image, "web": web}), tmp_path / "a.parquet", compression="none", use_dictionary=False
    )
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}
    command = [sys.executable, "-c", BOUNDED, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    read, peak_kib = map(int, done.stdout.split())
    assert read == 320 << 20
    assert peak_kib < 200 << 10


def test_shards_of_the_hub_are_trained_from_the_cache(tmp_path: Path) -> None:
    """`pixparse/cc3m-wds` in place: keys that repeat, no synthetic captions, files for each split."""
    from tests.unit.data.sources.test_join_tables import write_cc3m_wds

    write_cc3m_wds(tmp_path / "set", 2)
    for file in list((tmp_path / "set").glob("*.tar")):
        (tmp_path / "set" / file.name.replace("train", "validation")).write_bytes(file.read_bytes())
    with hub_server() as hub:
        hub.add_folder("pixparse/cc3m-wds", tmp_path / "set")
        storage = Storage(StorageConfig(retries=0), {"hf": {"endpoint": hub.url, "token": False}})
        root = "hf://datasets/pixparse/cc3m-wds/cc3m"
        fields = records.SampleFields(keys_repeat=True, needed=False)
        config = Img2datasetConfig(
            f"{root}-train-{{0000..0001}}.tar", f"{root}-validation-{{0000..0001}}.tar", "none", fields=fields
        )
        index = prepare(Img2datasetSource(config, storage), tmp_path / "shards")
        assert {split: index.split_samples(split) for split in index.splits} == {"train": 6, "validation": 6}
        reader = ShardSet(tmp_path / "shards", "train", remote=ShardCache(tmp_path / "cache", storage))
        found = list(reader.iterate())
        assert [record.key for record in found] == [
            f"cc3m-train-{shard:04d}/{row:09d}" for shard in range(2) for row in range(3)
        ]
        assert [record.web_caption for record in found] == [
            f"web {shard} {row}" for shard in range(2) for row in range(3)
        ]
        assert not any(record.synthetic_captions and record.synthetic_caption for record in found)
        # Each shard is fetched once more than `prepare` did.
        before = len(hub.requests)
        assert list(reader.iterate()) == found
        assert len(hub.requests) == before
