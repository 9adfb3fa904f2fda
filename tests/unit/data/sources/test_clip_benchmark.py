"""Datasets of CLIP_benchmark: read as that project writes them, and written as it reads them."""

import io
import json
import os
import subprocess
import sys
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.peer_packages import install
from tests.servers import http_server, s3_server
from tests.unit.data.samples import ListSource, image_bytes, record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import load_classes
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkConfig, ClipBenchmarkSource
from clips_pipeline.data.sources.clip_benchmark_export import ExportConfig, export_benchmark
from clips_pipeline.data.storage.files import Storage, StorageConfig

HERE = Storage(StorageConfig(retries=0))


def _set(root: Path, shards: list[list[tuple[str, str, bytes]]], **texts: str) -> Path:
    """Write a dataset like CLIP_benchmark's own writer; `texts` are the files at its root."""
    folder = root / "test"
    folder.mkdir(parents=True)
    for number, samples in enumerate(shards):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for key, ending, content in samples:
                for name, body in ((f"{key}.webp", image_bytes(len(key), kind="WEBP")), (f"{key}.{ending}", content)):
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    (folder / "nshards.txt").write_text(str(len(shards)))
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
    return root


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    shards = [
        [("s0000", "txt", b"A dog.\nA cat.\n"), ("s0001", "txt", "Ein Käfer.".encode())],
        [("s0000", "txt", b"Two.")],
    ]
    return _set(tmp_path / "captions", shards, dataset_type="retrieval")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    samples = [("a", "cls", b"1"), ("bb", "cls", b"0\n"), ("ccc", "cls", b"7"), ("dddd", "cls", b"x")]
    templates = "a photo of a {c}.\na {c}.\n"
    return _set(tmp_path / "classes", [samples], classnames="cat\ndog\n", zeroshot_classification_templates=templates)


def _source(root: Path | str, storage: Storage = HERE) -> ClipBenchmarkSource:
    return ClipBenchmarkSource(ClipBenchmarkConfig(str(root)), storage)


def _items(source: ClipBenchmarkSource) -> list[Record | Skip]:
    return [item for task in source.tasks("test") for item in task.records()]


def test_retrieval_dataset(captions: Path, tmp_path: Path) -> None:
    source = _source(captions)
    assert (source.splits, source.classes(), source.fields.needed) == (("test",), None, False)
    first, second, third = _items(source)
    assert isinstance(first, Record)
    assert (first.key, first.extension, first.captions) == ("0/s0000", "webp", ("A dog.", "A cat."))
    assert isinstance(second, Record)
    assert second.captions == ("Ein Käfer.",)
    assert isinstance(third, Record)
    assert third.key == "1/s0000"
    index = prepare(source, tmp_path / "shards")
    assert index.split_samples("test") == 3
    assert list(eval_samples(tmp_path / "shards", "test")) == [first, second, third]


def test_classification_dataset(classes: Path, tmp_path: Path) -> None:
    source = _source(classes)
    assert source.classes() == Classes(("cat", "dog"), ("a photo of a {}.", "a {}."))
    found = _items(source)
    assert [item.label for item in found if isinstance(item, Record)] == [1, 0]
    assert [item.reason for item in found if isinstance(item, Skip)] == [records.BAD_RECORD] * 2
    prepare(source, tmp_path / "shards", max_skipped_fraction=0.5)
    assert [r.label for r in eval_samples(tmp_path / "shards", "test")] == [1, 0]
    assert load_classes(tmp_path / "shards") == source.classes()


def test_train_split_is_split_by_keys(classes: Path, tmp_path: Path) -> None:
    samples = [(f"k{n:02d}", "cls", b"%d" % (n % 2)) for n in range(40)]
    (_set(tmp_path / "more", [samples[:25], samples[25:]]) / "test").rename(classes / "train")
    config = ClipBenchmarkConfig(str(classes), train_split="train", validation_fraction=0.25)
    source = ClipBenchmarkSource(config, HERE)
    assert source.splits == ("train", "validation", "test")
    prepare(source, tmp_path / "shards", max_skipped_fraction=0.5)
    found = {split: [r.key for r in eval_samples(tmp_path / "shards", split)] for split in source.splits}
    assert found["test"] == ["0/a", "0/bb"]
    every = sorted(found["train"] + found["validation"])
    assert every == sorted([f"0/k{n:02d}" for n in range(25)] + [f"1/k{n:02d}" for n in range(25, 40)])
    assert 2 <= len(found["validation"]) <= 18
    # A larger fraction adds samples and removes none.
    larger = ClipBenchmarkSource(replace(config, validation_fraction=0.5), HERE)
    keys = [item.key for task in larger.tasks("validation") for item in task.records() if isinstance(item, Record)]
    assert set(found["validation"]) < set(keys)
    prints = {one.fingerprint() for one in (source, larger, _source(classes))}
    assert len(prints) == 3


def test_retrieval_dataset_has_no_train_split(captions: Path) -> None:
    with pytest.raises(ConfigError, match=r"clip_benchmark\.train_split: .* is a retrieval dataset"):
        ClipBenchmarkSource(ClipBenchmarkConfig(str(captions), train_split="test"), HERE)


def test_remote_sets(captions: Path, classes: Path) -> None:
    with http_server(captions) as http:
        assert _items(_source(http.url)) == _items(_source(captions))
        assert _source(http.url).fingerprint() == _source(f"{http.url}/").fingerprint()
    with s3_server() as s3:
        storage = Storage(StorageConfig(retries=0), s3.options)
        for file in classes.rglob("*.*"):
            storage.upload(file, f"s3://data/set/{file.relative_to(classes)}")
        assert _items(_source("s3://data/set", storage)) == _items(_source(classes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "test" / "nshards.txt").unlink(), r"has no test/nshards\.txt"),
        (lambda root: (root / "test" / "nshards.txt").write_text("many"), "holds 'many'; write the number of shards"),
        (lambda root: (root / "classnames.txt").unlink(), r"has no classnames\.txt, and its dataset_type\.txt"),
        (lambda root: (root / "classnames.txt").write_text("\n"), "at least one name"),
        (lambda root: (root / "classnames.txt").write_text("cat\n \ndog\n"), r"classnames\.txt: line 2 is empty"),
        (lambda root: (root / "classnames.txt").write_bytes(b"caf\xe9\n"), r"classnames\.txt is not UTF-8"),
        (lambda root: (root / "dataset_type.txt").write_text("multilabel"), "says 'multilabel'; only retrieval and"),
        (lambda root: (root / "zeroshot_classification_templates.txt").write_text("a photo\n"), "has no {} for"),
    ],
)
def test_invalid_dataset_is_refused_before_work(classes: Path, damage: Any, message: str) -> None:
    damage(classes)
    with pytest.raises(ConfigError, match=message):
        _source(classes)


def test_type_is_read_as_in_clip_benchmark(captions: Path, classes: Path) -> None:
    (captions / "dataset_type.txt").write_text(" Retrieval \n")
    assert _source(captions).is_retrieval
    (classes / "dataset_type.txt").write_text("classification\n")
    (classes / "classnames.txt").write_text("cat\ndog\n\n")
    assert _source(classes).classes() == Classes(("cat", "dog"), ("a photo of a {}.", "a {}."))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    made = [record(n, key=f"sub/k{n}", captions=(f"one\n {n}", "two"), label=n % 3) for n in range(7)]
    made.append(record(7, key="last"))
    prepare(ListSource({"test": [made]}, found=Classes(("x", "y", "z"), ("a {}", "{}"))), tmp_path / "shards")
    return tmp_path / "shards"


def _export(prepared: Path, folder: Path, **changes: Any) -> int:
    return export_benchmark(prepared, folder, ExportConfig(**changes), ShardCache(folder / "c", HERE), HERE)


# webdataset leaves closing to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(("task", "ending", "count"), [("retrieval", "txt", 8), ("classification", "cls", 7)])
def test_export_can_be_read_as_in_clip_benchmark(
    prepared: Path, tmp_path: Path, task: str, ending: str, count: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    assert _export(prepared, out, task=task, samples_per_shard=3) == count
    shards = int((out / "test" / "nshards.txt").read_text())
    assert shards == 3
    # As in CLIP_benchmark's `build_wds_dataset`: numbered shards, decoded by extension, tuples of image and target.
    urls = str(out / "test" / f"{{0..{shards - 1}}}.tar")
    pairs = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("webp;png;jpg;jpeg", ending))
    assert len(pairs) == count
    assert pairs[1][0].size == (24, 20)
    if task == "retrieval":
        assert pairs[1][1].splitlines() == ["one 1", "two"]
        assert pairs[7][1].splitlines() == ["web 7"]
        assert (out / "dataset_type.txt").read_text().strip() == "retrieval"
    else:
        assert [label for _, label in pairs] == [n % 3 for n in range(7)]
        assert (out / "classnames.txt").read_text().split() == ["x", "y", "z"]
        assert (out / "zeroshot_classification_templates.txt").read_text().splitlines() == ["a {c}", "{c}"]
    again = [item for item in _items(_source(out)) if isinstance(item, Record)]
    wanted = list(eval_samples(prepared, "test"))
    assert [item.image for item in again] == [item.image for item in wanted[:count]]
    assert _source(out).classes() == (load_classes(prepared) if task == "classification" else None)


def test_no_two_keys_become_one_and_no_caption_is_empty(tmp_path: Path) -> None:
    made = [record(0, key="a/b", captions=("x",)), record(1, key="a_b", captions=("y", " \n", "z\u2028z"))]
    prepare(ListSource({"test": [made]}), tmp_path / "shards")
    assert _export(tmp_path / "shards", tmp_path / "out") == 2
    found = {item.key: item.captions for item in _items(_source(tmp_path / "out")) if isinstance(item, Record)}
    assert found == {"0/a/b": ("x",), "0/a_b": ("y", "z z")}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "classification"])
def test_clip_benchmark_reads_the_export(prepared: Path, tmp_path: Path, task: str) -> None:
    """Use the package itself, without its dependencies, from a separate folder and process."""
    peer = install(tmp_path / "peer", "clip_benchmark==1.6.2")
    out = tmp_path / "out"
    _export(prepared, out, task=task, samples_per_shard=3)
    environment = {**os.environ, "PYTHONPATH": str(peer)}
    command = [sys.executable, "-W", "ignore", "-c", READ_AS_PEER, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if task == "retrieval":
        wanted: list[Any] = [[f"one {n}", "two"] for n in range(7)] + [["web 7"]]
        assert found == {"targets": wanted, "sizes": [[24, 20]] * 8, "classes": None, "templates": None}
    else:
        names = {"classes": ["x", "y", "z"], "templates": ["a {c}", "{c}"]}
        assert found == {"targets": [n % 3 for n in range(7)], "sizes": [[24, 20]] * 7} | names


READ_AS_PEER = """
import json, sys
from clip_benchmark.datasets.builder import build_wds_dataset
found = build_wds_dataset("wds/mine", lambda image: image.size, split="test", data_dir=sys.argv[1])
pairs = list(found)
facts = {"targets": [p[1] for p in pairs], "sizes": [p[0] for p in pairs]}
print(json.dumps(facts | {"classes": found.classes, "templates": found.templates}))
"""


def test_an_export_is_replaced_as_a_whole_and_uploaded(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _export(prepared, out, samples_per_shard=1)
    with s3_server() as s3:
        storage = Storage(StorageConfig(retries=0), s3.options)
        config = ExportConfig(upload="s3://data/sets/mine/")
        export_benchmark(prepared, out, config, ShardCache(tmp_path / "c", storage), storage)
        assert sorted(file.name for file in (out / "test").iterdir()) == ["0.tar", "nshards.txt"]
        assert _items(_source("s3://data/sets/mine", storage)) == _items(_source(out))


def test_failed_export_keeps_the_former_one(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _export(prepared, out)
    before = sorted(out.rglob("*"))
    (prepared / "classes.json").unlink()
    with pytest.raises(ConfigError, match="names no classes"):
        _export(prepared, out, task="classification")
    with pytest.raises(
        ConfigError, match=r"split 'train' is not in the index; it has test.*--pipelines benchmark --env"
    ):
        _export(prepared, out, split="train")
    assert sorted(out.rglob("*")) == before
