"""Properties of every source; each is made from parameters, as in a run."""

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.samples import image_bytes
from tests.unit.data.sources.test_clip_benchmark import _set
from tests.unit.data.sources.test_recaption import _shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import is_current, prepare
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import IMAGE_EXTENSIONS, Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.in_place import CopyTask, TarTask
from clips_pipeline.data.sources.source import Source
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.pipelines.prepare.config import SourceConfig
from clips_pipeline.pipelines.prepare.nodes import make_source

Files = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One kind of source, and the changes that the tests make.

    Attributes:
        kind: `kind` of the parameters.
        group: the parameters of that kind, with the test's folder as `DIR`.
        lay_out: writes the files.
        other: changed parameters that give other samples.
        change: changes a sample in an existing file; None if the source reads no file.
        spoil: makes a sample in an existing file bad; None if the source reads no file.
        wrong: invalid parameters, and the key and the remedy that the error names.
    """

    kind: str
    group: dict[str, Any]
    lay_out: Files
    other: dict[str, Any]
    change: Files | None
    spoil: Files | None
    wrong: tuple[dict[str, Any], str, str]

    def parameters(self, folder: Path, **changes: Any) -> dict[str, Any]:
        text = json.dumps({"source": {"kind": self.kind, self.kind: self.group | changes}})
        found: dict[str, Any] = json.loads(text.replace("DIR", str(folder)))
        return found

    def make(self, folder: Path, **changes: Any) -> Source:
        storage = Storage(StorageConfig(retries=0))
        return make_source(self.parameters(folder, **changes), storage, folder / "tables")  # type: ignore[no-any-return]


def _folder(rows: Callable[[Path, list[dict[str, Any]]], None]) -> Files:
    def lay_out(folder: Path) -> None:
        (folder / "images").mkdir()
        names = [f"{number}.png" for number in range(6)]
        for number, name in enumerate(names):
            (folder / "images" / name).write_bytes(image_bytes(number))
        entries = [{"image": name, "caption": f"web {name}", "long_caption": f"Long {name}."} for name in names]
        rows(folder, entries)

    return lay_out


def _json(folder: Path, entries: list[dict[str, Any]]) -> None:
    (folder / "captions.json").write_text(json.dumps(entries))


def _parquet(folder: Path, entries: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(entries), folder / "captions.parquet")


def _tars(folder: Path) -> None:
    for number in range(4):
        _tar(folder, number, f"web {number}")


def _tar(folder: Path, number: int, web: str, facts: Any = None) -> None:
    samples = [(f"{number}-{row}", web, facts or {"re_caption": f"Long {number} {row}."}) for row in range(2)]
    _shard(folder / f"{number}.tar", samples)


def _tables(folder: Path) -> None:
    _tars(folder)
    _table(folder, [f"{number}-{row}" for number in range(4) for row in range(2)])


def _table(folder: Path, keys: list[str], text: str = "Table") -> None:
    rows = {"key": keys, "re_caption": [f"{text} {key}." for key in keys], "other": [f"Other {key}." for key in keys]}
    pq.write_table(pa.table(rows), folder / "table.parquet")


def _files(folder: Path, text: str = "Long", missing: int | None = None, plain: bool = False) -> None:
    for number in range(4):
        rows = [number * 2 + row for row in range(2)]
        images = [None if row == missing else image_bytes(row) for row in rows]
        columns = {
            "id": rows,
            "image": images if plain else [{"bytes": image, "path": "x.jpg"} for image in images],
            "text": [f"web {row}" for row in rows],
            "long": [[f"{text} {row}.", f"Second {row}."] for row in rows],
            "other": [f"Other {row}." for row in rows],
        }
        pq.write_table(pa.table(columns), folder / f"train-{number:05d}.parquet", row_group_size=1)


def _captions(folder: Path, middle: bytes = b"A dog.\nA cat.\n", root: str = "set") -> None:
    shards = [[("s0", "txt", b"One."), ("s1", "txt", middle)], [("s2", "txt", b"Two.")]]
    _set(folder / root, shards, dataset_type="retrieval")
    if root == "set":
        _captions(folder, b"Another split.", "second")


def _classes(folder: Path, label: bytes = b"1", root: str = "set") -> None:
    texts = {"classnames": "cat\ndog\n", "zeroshot_classification_templates": "a {c}.\n"}
    _set(folder / root, [[("s0", "cls", b"0"), ("s1", "cls", label)]], **texts)
    if root == "set":
        _classes(folder, b"0", "second")


def _overwrite(lay_out: Callable[..., None], content: bytes) -> Files:
    """Write the dataset again with another second sample."""

    def write(folder: Path) -> None:
        (folder / "set").rename(folder / "before")
        (folder / "second").rename(folder / "second-before")
        lay_out(folder, content)

    return write


_FOLDER: dict[str, Any] = {"images": "DIR/images", "evaluate_on": "train"}
_DELETE_IMAGE: Files = lambda folder: (folder / "images" / "1.png").unlink()  # noqa: E731
_REPLACE_IMAGE: Files = lambda folder: (folder / "images" / "1.png").write_bytes(image_bytes(99)) and None  # noqa: E731
_MISSING_SET = ({"root": "DIR/nowhere"}, "source.clip_benchmark", "give the folder that holds")
_IN_PLACE = {
    "lay_out": _tars,
    "other": {"fields": {"synthetic": "url"}},
    "change": lambda folder: _tar(folder, 1, "another web caption"),
    "spoil": lambda folder: _tar(folder, 1, "web", [1]),
    "wrong": ({"train": "DIR/{0..1}.tar"}, "source.img2dataset.train", "name more, or give source.img2dataset"),
}

_PARQUET: dict[str, Any] = {
    "train": "DIR/train-{00000..00001}.parquet",
    "validation": "DIR/train-00002.parquet",
    "test": "DIR/*-00003.parquet",
    "columns": {"web": "text", "synthetic": "long", "key": "id"},
}

CASES = {
    "scenes": Case(
        "scenes",
        {"train": 4, "validation": 2, "test": 2, "image_size": 32, "samples_per_shard": 2},
        lambda folder: None,
        {"seed": 1},
        None,
        None,
        ({"image_size": 0}, "source.scenes", "at least 16"),
    ),
    "folder with JSON": Case(
        "folder",
        _FOLDER | {"captions": "DIR/captions.json"},
        _folder(_json),
        {"evaluate_on": "held_out", "test_fraction": 0.5},
        _REPLACE_IMAGE,
        _DELETE_IMAGE,
        ({"images": "DIR/nowhere"}, "source.folder.images", "give the folder of the images"),
    ),
    "folder with Parquet": Case(
        "folder",
        _FOLDER | {"captions": "DIR/captions.parquet"},
        _folder(_parquet),
        {"fields": {"caption": "long_caption", "long_caption": "caption"}},
        _REPLACE_IMAGE,
        _DELETE_IMAGE,
        ({"captions": "DIR/none.parquet"}, "captions", "give the path"),
    ),
    "img2dataset": Case("img2dataset", {"train": "DIR/{0..3}.tar"}, **_IN_PLACE),
    "img2dataset rewritten": Case("img2dataset", {"train": "DIR/{0..3}.tar", "rewrite": True}, **_IN_PLACE),
    "parquet": Case(
        "parquet",
        _PARQUET,
        _files,
        {"columns": {"web": "text", "synthetic": {"other one": "other"}, "key": "id"}},
        lambda folder: _files(folder, "Changed"),
        lambda folder: _files(folder, missing=3),
        (
            {"columns": {"web": "txt"}},
            "source.parquet.columns",
            "(it has: id, image, text, long, other); name an existing one",
        ),
    ),
    "parquet of plain bytes": Case(
        "parquet",
        _PARQUET | {"columns": {"web": "text", "synthetic": "long"}, "rows_per_task": 1},
        lambda folder: _files(folder, plain=True),
        {"columns": {"web": "text", "synthetic": "other"}},
        lambda folder: _files(folder, "Changed", plain=True),
        lambda folder: _files(folder, missing=0, plain=True),
        ({"test": "DIR/nowhere/*.parquet"}, "source.parquet.test", "name Parquet files"),
    ),
    "recaption": Case(
        "recaption",
        {"train": "DIR/{0..3}.tar", "tables": "DIR/table.parquet"},
        _tables,
        {"columns": {"synthetic": "other"}},
        lambda folder: _table(folder, [f"{number}-{row}" for number in range(4) for row in range(2)], "Changed"),
        lambda folder: _table(folder, [f"{number}-{row}" for number in range(4) for row in range(2) if number + row]),
        ({"tables": "DIR/*.pq"}, "source.recaption.tables", "name Parquet or CSV files"),
    ),
    "clip_benchmark captions": Case(
        "clip_benchmark",
        {"root": "DIR/set"},
        _captions,
        {"root": "DIR/second"},
        _overwrite(_captions, b"Another."),
        _overwrite(_captions, b"\xff"),
        _MISSING_SET,
    ),
    "clip_benchmark classes": Case(
        "clip_benchmark",
        {"root": "DIR/set"},
        _classes,
        {"root": "DIR/second"},
        _overwrite(_classes, b"0"),
        _overwrite(_classes, b"2"),
        _MISSING_SET,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    found = CASES[request.param]
    found.lay_out(tmp_path)
    return found


def _of_task(task: Any) -> list[Record | Skip]:
    return list((CopyTask(task) if isinstance(task, TarTask) else task).records())


def _items(source: Source) -> dict[Split, list[Record | Skip]]:
    return {split: [item for task in source.tasks(split) for item in _of_task(task)] for split in source.splits}


def _good(items: dict[Split, list[Record | Skip]]) -> list[Record]:
    return [item for split in items.values() for item in split if isinstance(item, Record)]


def test_every_source_kind_has_a_case() -> None:
    kinds = get_args(SourceConfig.__dataclass_fields__["kind"].type)
    assert {case.kind for case in CASES.values()} == set(kinds)


def test_samples_are_complete_and_keys_differ(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    items = _items(source)
    assert list(items) == [split for split in ("train", "validation", "test") if split in items]
    assert not [item for split in items.values() for item in split if isinstance(item, Skip)]
    for split in items.values():
        assert len({item.key for item in split}) == len(split) > 0
    for record in _good(items):
        assert record.extension in IMAGE_EXTENSIONS
        assert record.image
        assert not source.fields.needed or (record.web_caption and record.synthetic_caption)
        assert source.classes() is None or record.label in range(len(source.classes().names))  # type: ignore[union-attr]


def test_samples_are_the_same_in_every_process(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path)
    first, fingerprint = _items(source), source.fingerprint()
    assert _items(source) == first
    assert _items(case.make(tmp_path)) == first
    for split in source.splits:
        tasks = pickle.loads(pickle.dumps(list(source.tasks(split))))  # noqa: S301
        # Worker processes take tasks in any order.
        found = [_of_task(task) for task in reversed(tasks)]
        assert [item for items in reversed(found) for item in items] == first[split]
    assert case.make(tmp_path).fingerprint() == source.fingerprint() == fingerprint


def test_parameters_change_the_fingerprint(case: Case, tmp_path: Path) -> None:
    other = case.make(tmp_path, **case.other)
    assert other.fingerprint() != case.make(tmp_path).fingerprint()
    assert _items(other) != _items(case.make(tmp_path))


def test_content_changes_the_fingerprint(case: Case, tmp_path: Path) -> None:
    if case.change is None:
        pytest.skip("reads no file")
    before, items = case.make(tmp_path).fingerprint(), _items(case.make(tmp_path))
    case.change(tmp_path)
    assert case.make(tmp_path).fingerprint() != before
    assert _items(case.make(tmp_path)) != items


def test_bad_sample_is_skipped_and_affects_no_other(case: Case, tmp_path: Path) -> None:
    if case.spoil is None:
        pytest.skip("reads no file")
    before = _items(case.make(tmp_path))
    case.spoil(tmp_path)
    after = _items(case.make(tmp_path))
    skips = [item for split in after.values() for item in split if isinstance(item, Skip)]
    assert skips
    assert all(re.fullmatch("[a-z0-9_]+", skip.reason) and skip.key and skip.detail for skip in skips)
    assert _good(after) == [record for record in _good(before) if record.key in {good.key for good in _good(after)}]
    assert len(_good(after)) + len(skips) == len(_good(before))


def test_error_names_key_and_remedy(case: Case, tmp_path: Path) -> None:
    changes, key, remedy = case.wrong
    with pytest.raises(ConfigError) as caught:
        case.make(tmp_path, **changes)
    assert key in str(caught.value)
    assert remedy in str(caught.value)


def test_kind_without_its_group_is_refused(case: Case, tmp_path: Path) -> None:
    if case.kind == "scenes":
        pytest.skip("its group has defaults")
    parameters = case.parameters(tmp_path)
    del parameters["source"][case.kind]
    with pytest.raises(ConfigError, match=rf"kind: '{case.kind}', but the group '{case.kind}' is missing; set source"):
        make_source(parameters, Storage(), tmp_path / "tables")


def test_prepared_samples_are_those_of_the_source(case: Case, tmp_path: Path) -> None:
    source, shards = case.make(tmp_path), tmp_path / "shards"
    index = prepare(source, shards)
    assert index.skips == {split: {} for split in source.splits}
    for split, items in _items(source).items():
        assert list(eval_samples(shards, split)) == items
    assert is_current(case.make(tmp_path), shards)
    assert not is_current(case.make(tmp_path, **case.other), shards)
