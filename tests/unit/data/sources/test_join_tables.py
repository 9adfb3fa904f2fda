"""Caption tables as people have them: CSV, compressed, with several captions, hostile, in conflict, half read."""

import csv
import gzip
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.samples import image_bytes
from tests.unit.data.sources.test_recaption import HERE, _shard, _table

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.sources import table_build
from clips_pipeline.data.sources.caption_table import CaptionTable
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.sources.table_build import build_table
from clips_pipeline.data.sources.table_rows import TableColumns
from clips_pipeline.text.captions import Caption

# Columns of `qidouxiong619/dreamlip_long_captions`.
CAPTIONERS = {"InstructBLIP": "IB", "ShareGPT4V": "SV", "LLaVA-1.5": "LLA"}
DREAMLIP = ["Image Path", "raw_caption"] + [
    f"{size}{of}_captions" for of in CAPTIONERS.values() for size in ("short", "long")
]
LONG = {captioner: f"long{of}_captions" for captioner, of in CAPTIONERS.items()}


def build(tmp_path: Path, *tables: str, columns: TableColumns | None = None, **changes: Any) -> CaptionTable:
    options: dict[str, Any] = {"key": "key", "columns": columns or TableColumns(), "memory_mib": 128}
    return build_table(tables, HERE, tmp_path / "table", **(options | changes))


def text(table: CaptionTable, key: str) -> str | None:
    row = table.find(key)
    return None if row is None else row.values["s0"]


def write_dreamlip(file: Path, urls: list[str]) -> str:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(DREAMLIP)
        for url in urls:
            writer.writerow([url] + [f'{name} of {url}, with a "quote"\nand a line.' for name in DREAMLIP[1:]])
    return str(file)


def write_cc3m_wds(folder: Path, shards: int, samples: int = 3) -> list[str]:
    """Write shards as in `pixparse/cc3m-wds`, which number their samples from zero; return the URLs."""
    urls = []
    for shard in range(shards):
        made = []
        for row in range(samples):
            urls.append(f"http://host/{shard}/{row}.jpg?w=1&h=2")
            made.append((f"{row:09d}", f"web {shard} {row}", {"url": urls[-1], "caption": "c", "status": "success"}))
        _shard(folder / f"cc3m-train-{shard:04d}.tar", made)
    return urls


def test_dreamlip_by_url(tmp_path: Path) -> None:
    urls = write_cc3m_wds(tmp_path, 3)
    table = write_dreamlip(
        tmp_path / "cc3m_3long_3short_1raw_captions_url.csv", [*urls[1:], "http://host/unmatched.jpg"]
    )
    columns = TableColumns(LONG, web=("raw_caption",), key="Image Path")
    config = RecaptionConfig(
        f"{tmp_path}/cc3m-train-{{0000..0002}}.tar", table, on="url", columns=columns, keys_repeat=True
    )
    source = RecaptionSource(config, HERE, tmp_path / "work")
    prepare(source, tmp_path / "shards")
    found = [record for split in source.splits for record in eval_samples(tmp_path / "shards", split)]
    assert len(found) == 8
    # The first sample has no row.
    assert {record.key for record in found} == {
        f"cc3m-train-{shard:04d}/{row:09d}" for shard in range(3) for row in range(3)
    } - {"cc3m-train-0000/000000000"}
    first = next(record for record in found if record.key == "cc3m-train-0001/000000002")
    url = "http://host/1/2.jpg?w=1&h=2"
    assert first.web_captions == (f'raw_caption of {url}, with a "quote"\nand a line.',)
    assert first.synthetic_captions == tuple(
        Caption(f'{name} of {url}, with a "quote"\nand a line.', captioner) for captioner, name in LONG.items()
    )
    assert source.notes() == {
        "table_rows_used": 8,
        "table_rows_without_sample": 1,
        "table_rows_repeated": 0,
        "table_rows_empty": 0,
    }


def test_shards_that_repeat_keys_are_read_in_place(tmp_path: Path) -> None:
    from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource

    for shard in range(3):
        made = [(f"{row:09d}", "web", {"re_caption": f"Long {shard} {row}."}) for row in range(2)]
        _shard(tmp_path / f"{shard}.tar", made)
    fields = records.SampleFields(keys_repeat=True)
    prefixed = [f"0/{row:09d}" for row in range(2)]
    for rewrite in (False, True):
        config = Img2datasetConfig(f"{tmp_path}/{{0..2}}.tar", fields=fields, rewrite=rewrite)
        source = Img2datasetSource(config, HERE)
        prepare(source, tmp_path / f"shards-{rewrite}")
        assert [record.key for record in eval_samples(tmp_path / f"shards-{rewrite}", "train")] == prefixed


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".csv.zst", ".tsv", ".CSV"])
def test_text_tables(tmp_path: Path, ending: str) -> None:
    mark = "\t" if ending == ".tsv" else ","
    content = mark.join(["", "key", "re_caption", "score"]) + "\r\n"
    content += f'0{mark}a{mark}"A, ""b""\r\nc."{mark}0.5\r\n1{mark}é{mark}É.{mark}\r\n2{mark}none{mark}{mark}x\r\n'
    file = tmp_path / f"table{ending}"
    if ending.endswith(".gz"):
        file.write_bytes(gzip.compress(content.encode()))
    elif ending.endswith(".zst"):
        with pa.CompressedOutputStream(str(file), "zstd") as out:
            out.write(content.encode())
    else:
        file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    table = build(tmp_path, str(file), columns=TableColumns(score="score"))
    assert [text(table, key) for key in ("a", "é", "none")] == ['A, "b"\r\nc.', "É.", None]
    row = table.find("a")
    assert row is not None
    assert row.values["score"] == 0.5
    assert (table.counts.rows, table.counts.empty, table.counts.faulty) == (2, 1, 0)


@pytest.mark.parametrize(
    ("rows", "wanted", "faulty"),
    [
        (b"a,A.\nb,x\x00y\nc,C.\n", {"a": "A.", "b": "x\0y", "c": "C."}, 0),
        (b'a,A.\nb,"x" y\nc,C.\n', {"a": "A.", "c": "C."}, 1),
        (b"a,A.\nb,x\xff\nc,C.\n", {"a": "A.", "c": "C."}, 1),
        (b"a,A.\nb\nc,C.\n", {"a": "A.", "c": "C."}, 1),
        (b"a,A.\nb,x,y\nc,C.\n", {"a": "A.", "c": "C."}, 1),
        (b"a,A.\nb," + b"x" * (3 << 20) + b"\nc,C.\n", {"a": "A.", "c": "C."}, 1),
        (b'a,A.\nb,"' + b"x\n" * (2 << 20) + b'"\nc,C.\n', {"a": "A.", "c": "C."}, 1),
        (b"a,A.\n" + b"b," + b"y" * 70_000 + b"\n", {"a": "A.", "b": "y" * 65_537}, 0),
    ],
    ids=["NUL", "quote", "encoding", "too few", "too many", "long", "long quoted", "long caption"],
)
def test_hostile_rows_are_counted(tmp_path: Path, rows: bytes, wanted: dict[str, str], faulty: int) -> None:
    (tmp_path / "a.csv").write_bytes(b"key,re_caption\n" + rows)
    table = build(tmp_path, str(tmp_path / "a.csv"))
    assert {key: found for key in "abc" if (found := text(table, key)) is not None} == wanted
    assert table.counts.faulty == faulty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"key,other\na,b\n", r"no column 're_caption' \(it has: key, other\); name an existing one"),
        (b"", r"no column 'key' \(it has: \)"),
        (b"\x00\xff\x00", r"no column 'key'"),
        (b"key,re_caption\n", r"none of 0 rows has a text under 'key' and a caption \(0 are not CSV\)"),
        (b'key,re_caption\n"a,A.\nb,B.\n', r"none of 0 rows .* \(1 are not CSV\)"),
        (b"key,re_caption\na,\n,A.\n", r"none of 2 rows has a text"),
    ],
)
def test_text_table_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.csv: {message}"):
        build(tmp_path, str(tmp_path / "a.csv"))
    (tmp_path / "a.csv.gz").write_bytes(content or b"plain")
    with pytest.raises(ConfigError, match=r"a\.csv\.gz: cannot be unpacked"):
        build(tmp_path, str(tmp_path / "a.csv.gz"))


def test_lists_and_dictionaries_of_parquet(tmp_path: Path) -> None:
    lists = pa.array([["One.", "Two."], [" "], []], pa.list_(pa.string()))
    web = pa.array(["w", "w", "v"]).dictionary_encode()
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": ["1", "2", "3"], "re_caption": lists, "web": web}), file)
    table = build(tmp_path, str(file), columns=TableColumns(web="web"))
    row = table.find("1")
    assert row is not None
    assert row.values == {"key": "1", "s0": ["One.", "Two."], "w0": "w"}
    assert (table.counts.rows, table.counts.empty) == (1, 2)


def test_keys_whose_rows_differ_are_counted_and_named(tmp_path: Path) -> None:
    rows = {"key": ["a", "b", "a", "c"], "re_caption": ["A.", "B.", "A.", "C."]}
    first = _table(tmp_path / "a.parquet", rows)
    (tmp_path / "b.csv").write_text("key,re_caption\nb,B.\nc,Another C.\nc,C.\nb,Another B.\n")
    tables = (first, str(tmp_path / "b.csv"))
    table = build(tmp_path, *tables)
    assert (table.counts.rows, table.counts.repeated, table.counts.conflicts) == (3, 5, 2)
    assert [text(table, key) for key in "abc"] == ["A.", "B.", "C."]
    message = (
        r"2 keys .* different captions, max_conflicts allows 1: .*'c' in row 4 of .*a\.parquet and row 2 of .*b\.csv"
    )
    with pytest.raises(ConfigError, match=message):
        build_table(
            tables, HERE, tmp_path / "other", key="key", columns=TableColumns(), memory_mib=128, max_conflicts=1
        )
    assert not (tmp_path / "other").exists()


def test_sorting_in_small_batches_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that continue in the next batch."""
    keys = [f"{number % 7}" for number in range(60)]
    captions = [f"{number % 7 if number % 5 else number}" for number in range(60)]
    file = _table(tmp_path / "a.parquet", {"key": keys, "re_caption": captions})
    wanted = build(tmp_path, file)
    assert (wanted.counts.rows, wanted.counts.repeated, wanted.counts.conflicts) == (7, 53, 7)

    whole = table_build._Sorted.add

    class Small(table_build._Sorted):
        def add(self, *columns: Any) -> Any:
            parts = [tuple(column[at : at + 2] for column in columns) for at in range(0, 60, 2)]
            return np.concatenate([whole(self, *part) for part in parts])

    monkeypatch.setattr(table_build, "_Sorted", Small)
    found = build_table([file], HERE, tmp_path / "small", key="key", columns=TableColumns(), memory_mib=128)
    assert found.counts == wanted.counts
    assert {key: text(found, key) for key in keys} == {key: text(wanted, key) for key in keys}


KILLED = """
import os, signal, sys
from clips_pipeline.data.sources import table_build
from tests.unit.data.sources.test_join_tables import build
from pathlib import Path
write, steps = getattr(table_build, sys.argv[2]), [0]
def killing(*arguments):
    found = write(*arguments)
    steps[0] += 1
    if steps[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(table_build, sys.argv[2], killing)
build(Path(sys.argv[1]), *sys.argv[4:])
"""


@pytest.mark.parametrize(("step", "time"), [("_write_rows", 2), ("_add_hashes", 2), ("_sort", 1)])
def test_killed_work_goes_on_with_the_next_table(tmp_path: Path, repository: Path, step: str, time: int) -> None:
    tables = [
        _table(tmp_path / f"{n}.parquet", {"key": [f"{n}", "x"], "re_caption": [f"Caption {n}.", f"X {n}."]})
        for n in range(3)
    ]
    command = [sys.executable, "-c", KILLED, str(tmp_path), step, str(time), *tables]
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "table.partial").glob("rows-00000.*")}
    assert len(kept) == 2
    table = build(tmp_path, *tables)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "table").glob("rows-00000.*")} == {
        file.name: time for file, time in kept.items()
    }
    assert (table.counts.rows, table.counts.repeated, table.counts.conflicts) == (4, 2, 1)
    assert [text(table, key) for key in ("0", "1", "2", "x")] == ["Caption 0.", "Caption 1.", "Caption 2.", "X 0."]
    assert not (tmp_path / "table.partial").exists()


def test_work_that_ends_while_it_tidies_up_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _table(tmp_path / "a.parquet", {"key": ["a"], "re_caption": ["A."]})

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(table_build.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, file)
    done = tmp_path / "table"
    table = CaptionTable(done) if done.exists() else build(tmp_path, file)
    assert text(table, "a") == "A."


def test_join_that_matches_nothing_names_both_keys(tmp_path: Path) -> None:
    urls = write_cc3m_wds(tmp_path, 3)
    table = write_dreamlip(tmp_path / "a.csv", [url.replace("http", "https") for url in urls])
    columns = TableColumns(LONG, key="Image Path")
    config = RecaptionConfig(f"{tmp_path}/cc3m-train-{{0000..0002}}.tar", table, on="url", columns=columns)
    with pytest.raises(ConfigError) as error:
        prepare(RecaptionSource(config, HERE, tmp_path / "work"), tmp_path / "shards")
    message = str(error.value)
    assert "no row of the tables has this url: http://host/0/0.jpg" in message
    assert "the first 'Image Path' of the tables is 'https://host/0/0.jpg" in message
    assert "set source.recaption.on and .columns.key" in message


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(40):
        file = tmp_path / "images" / f"{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image_bytes(number))
    (tmp_path / "images" / "readme.txt").write_text("no image")
    (tmp_path / "images" / "link.png").symlink_to("/etc/hostname")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("on", "named"),
    [
        ("key", lambda file, folder: str(file.relative_to(folder))),
        ("key", lambda file, folder: str(file.relative_to(folder).with_suffix(""))),
        ("sha256", lambda file, folder: __import__("hashlib").sha256(file.read_bytes()).hexdigest()),
    ],
    ids=["path", "path without ending", "sha256"],
)
def test_folder_of_images(tmp_path: Path, images: Path, on: str, named: Callable[[Path, Path], str]) -> None:
    files = sorted(images.glob("*/*.png"))
    rows = {
        on: [named(file, images) for file in files[1:]] + ["unmatched"],
        "re_caption": [f"Long {file.stem}." for file in files[1:]] + ["x"],
        "web": [f"web {file.stem}" for file in files[1:]] + ["x"],
    }
    table = _table(tmp_path / "a.parquet", rows)
    config = RecaptionConfig(str(images), table, on=on, columns=TableColumns(web="web"), held_out_fraction=0.2)  # type: ignore[arg-type]
    source = RecaptionSource(config, HERE, tmp_path / "work")
    assert source.splits == ("train", "validation", "test")
    found = {split: [item for task in source.tasks(split) for item in task.records()] for split in source.splits}
    joined = [item for items in found.values() for item in items if isinstance(item, Record)]
    assert all(found.values())
    assert {record.key for record in joined} == {str(file.relative_to(images).with_suffix("")) for file in files[1:]}
    for record in joined:
        assert record.image == (images / f"{record.key}.png").read_bytes()
        name = record.key.rpartition("/")[2]
        assert (record.web_caption, record.synthetic_caption) == (f"web {name}", f"Long {name}.")
    skips = [item for items in found.values() for item in items if isinstance(item, Skip)]
    assert [(skip.reason, skip.key) for skip in skips] == [(records.NO_TABLE_ROW, str(files[0].relative_to(images)))]
    assert source.notes()["table_rows_without_sample"] == 1
    before = source.fingerprint()
    files[3].write_bytes(image_bytes(99))
    assert RecaptionSource(config, HERE, tmp_path / "work").fingerprint() != before
    only = RecaptionSource(replace(config, validation="none", test="none"), HERE, tmp_path / "work")
    assert only.splits == ("train",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": TableColumns()}, r"columns\.web: a folder of images has no web captions; name the column"),
        ({"on": "url"}, r"on: a folder of images has no url; use key or sha256"),
        (
            {"test": "other"},
            r"source\.recaption\.test: train is a folder of images, which is split by held_out_fraction",
        ),
    ],
)
def test_folder_that_cannot_be_joined(tmp_path: Path, images: Path, changes: dict[str, Any], message: str) -> None:
    config = RecaptionConfig(str(images), "a.parquet", columns=TableColumns(web="web"))
    with pytest.raises(ConfigError, match=message):
        RecaptionSource(replace(config, **changes), HERE, tmp_path / "work")


BOUNDED = """
import resource, sys
from pathlib import Path
from tests.unit.data.sources.test_join_tables import build
build(Path(sys.argv[1]), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_row_of_half_a_gibibyte_is_bounded(tmp_path: Path, repository: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as out:
        out.write(b'key,re_caption\na,A.\nb,"')
        for _ in range(512):
            out.write(b"x" * (1 << 20))
        out.write(b'"\nc,C.\n')
    command = [sys.executable, "-c", BOUNDED, str(tmp_path), str(tmp_path / "a.csv.gz")]
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 400 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    table = CaptionTable(tmp_path / "table")
    assert [text(table, key) for key in "abc"] == ["A.", None, "C."]
    assert table.counts.faulty == 1
