"""Shards read in place: nothing is copied, and every problem is found, counted and left out."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import ListSource, bomb_image, image_bytes, record

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.prepare import filters
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import is_current, prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards import records, sample_reader, tar_file
from clips_pipeline.data.shards.index import Index, digest_keys, load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.shards.sample_reader import SampleReader
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.shards.tar_headers import Scan
from clips_pipeline.data.sources.in_place import CopyTask, TarTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError

Member = tuple[str, bytes]


@dataclass
class Tars(Source):
    parts: dict[Split, list[Path]]
    fields: SampleFields = SampleFields()  # noqa: RUF009 - immutable
    storage: Storage = field(default_factory=Storage)
    rewrite: bool = False
    limits: SampleLimits = SampleLimits()  # noqa: RUF009 - immutable

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self.parts)

    def tasks(self, split: Split) -> Sequence[TarTask] | Sequence[ShardTask]:
        tars = [TarTask(str(path), self.fields, self.storage, self.limits) for path in self.parts[split]]
        return [CopyTask(one) for one in tars] if self.rewrite else tars

    def fingerprint(self) -> str:
        return "tars"


def sample(number: int, key: str | None = None, image: bytes | None = None, **changes: bytes | None) -> list[Member]:
    key = key or f"k{number:04d}"
    files: dict[str, bytes | None] = {
        "png": image_bytes(number) if image is None else image,
        "txt": f"web {number}".encode(),
        "json": json.dumps({"re_caption": f"Long {number}.", "score": number / 10}).encode(),
    }
    return [(f"{key}.{ending}", content) for ending, content in (files | changes).items() if content is not None]


def tar(path: Path, *samples: list[Member]) -> Path:
    with tarfile.open(path, "w") as made:
        for name, content in (member for files in samples for member in files):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def keys(folder: Path, split: Split = "train") -> list[str]:
    return [record.key for record in eval_samples(folder, split)]


def test_index_refers_to_shards_in_place(tmp_path: Path) -> None:
    one = tar(tmp_path / "one.tar", *map(sample, range(4)))
    two = tar(tmp_path / "two.tar", *map(sample, range(4, 6)))
    index = prepare(Tars({"train": [one, two]}), tmp_path / "shards")
    assert sorted(path.name for path in (tmp_path / "shards").rglob("*")) == [
        "index.json",
        "spans.bin",
        "statistics.json",
    ]
    first = index.split("train")[0]
    assert (first.path, first.samples) == (str(one), 4)
    assert first.bytes == one.stat().st_size
    assert first.sha256 == hashlib.sha256(one.read_bytes()).hexdigest()
    assert first.keys_digest == digest_keys(["k0000", "k0001", "k0002", "k0003"])
    assert keys(tmp_path / "shards") == [f"k{number:04d}" for number in range(6)]
    assert load_index(tmp_path / "shards") == index
    assert is_current(Tars({"train": [one, two]}), tmp_path / "shards")


JPEG = image_bytes(3, kind="JPEG", size=(64, 64))
BAD: dict[str, list[Member]] = {
    records.MISSING_IMAGE: sample(1, png=None),
    records.EMPTY_WEB_CAPTION: sample(2, txt=None),
    records.EMPTY_SYNTHETIC_CAPTION: sample(3, json=b'{"re_caption": " "}'),
    records.UNDECODABLE_IMAGE: sample(4, png=None, jpg=JPEG[:-300]),
    records.NOT_UTF8: sample(5, txt=b"caf\xe9"),
    records.EMPTY_FILE: sample(6, image=b""),
    records.TOO_MANY_PIXELS: sample(7, image=bomb_image(30_000, 30_000)),
    records.BAD_RECORD: sample(8, json=b"{"),
}


def one_of(index: Index, folder: Path, reason: str) -> tuple[str, str]:
    """Return shard and key of the example for a reason."""
    assert index.skips["train"][reason] >= 1
    found = next(example for example in load_statistics(folder).examples if example.reason == reason)
    return found.shard, found.key


@pytest.mark.parametrize("reason", BAD)
def test_bad_samples_are_left_out_and_counted_with_shard_and_key(tmp_path: Path, reason: str) -> None:
    made = tar(tmp_path / "a.tar", sample(100), BAD[reason], sample(101))
    index = prepare(Tars({"train": [made]}), tmp_path / "shards", max_skipped_fraction=0.5)
    assert index.skips == {"train": {reason: 1}}
    key = BAD[reason][0][0].partition(".")[0]
    assert one_of(index, tmp_path / "shards", reason) == (str(made), key)
    assert f"{reason} {key}" in index.examples[0]
    entry = index.split("train")[0]
    assert entry.samples == 2
    assert entry.keys_digest == digest_keys(["k0100", "k0101"])
    assert (tmp_path / "shards" / "spans.bin").stat().st_size == 2 * 8
    assert keys(tmp_path / "shards") == ["k0100", "k0101"]


def test_smaller_pixel_limit_applies(tmp_path: Path) -> None:
    made = tar(tmp_path / "a.tar", sample(1), sample(2, image=image_bytes(2, size=(100, 50))))
    source = Tars({"train": [made]}, limits=SampleLimits(max_pixels=4999))
    index = prepare(source, tmp_path / "s", max_skipped_fraction=0.5)
    assert index.skips == {"train": {records.TOO_MANY_PIXELS: 1}}
    index = prepare(replace(source, limits=SampleLimits(max_pixels=5000)), tmp_path / "s")
    assert index.skips == {"train": {}}
    with pytest.raises(ConfigError, match="max_pixels: 200000000"):
        from_mapping(SampleLimits, {"max_pixels": 200_000_000}, "limits")


@pytest.mark.parametrize("policy", ["leave_out", "keep"])
def test_interleaved_samples_are_found(tmp_path: Path, policy: str) -> None:
    one, two = sample(1), sample(2)
    made = tar(tmp_path / "a.tar", sample(0), [one[0], two[0], *one[1:], *two[1:]], sample(3))
    rules = SampleRules(interleaved=policy)  # type: ignore[arg-type]
    index = prepare(Tars({"train": [made]}), tmp_path / "shards", max_skipped_fraction=0.5, rules=rules)
    found = load_statistics(tmp_path / "shards").splits["train"]
    if policy == "keep":
        assert (index.skips["train"], found.noted) == ({}, {records.INTERLEAVED: 2})
        assert keys(tmp_path / "shards") == ["k0000", "k0001", "k0002", "k0003"]
    else:
        assert (index.skips["train"], found.noted) == ({records.INTERLEAVED: 2}, {})
        assert one_of(index, tmp_path / "shards", records.INTERLEAVED) == (str(made), "k0001")
        assert keys(tmp_path / "shards") == ["k0000", "k0003"]


@pytest.mark.parametrize("count", [100, 200])
def test_a_sample_reads_as_many_headers_in_a_shard_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A shard sorted by ending; without the bound, each of n samples would read 2 n headers."""
    members = [member for number in range(count) for member in sample(number)]
    made = tar(tmp_path / "a.tar", sample(1_000), sorted(members, key=lambda member: member[0][-4:]), sample(2_000))
    monkeypatch.setattr(tar_file, "MAX_HEADERS_IN_SPAN", 150)
    rules = SampleRules(interleaved="keep")
    source = Tars({"train": [made]})
    index = prepare(source, tmp_path / "shards", max_skipped_fraction=1.0, rules=rules)
    assert index.skips["train"] == {records.INTERLEAVED: count}
    assert "source.img2dataset.rewrite: true" in index.examples[0]
    assert keys(tmp_path / "shards") == ["k1000", "k2000"]
    read: list[int] = []
    real = sample_reader.read_headers
    monkeypatch.setattr(sample_reader, "read_headers", lambda *args: _counted(real(*args), read))
    assert keys(tmp_path / "shards") == ["k1000", "k2000"]
    assert read == [3, 3]
    index = prepare(replace(source, rewrite=True), tmp_path / "copies", rules=rules)
    assert index.split_samples("train") == count + 2
    # An index of others may give any span.
    with SampleReader(made) as reader:
        read.clear()
        with suppress(BadSampleError):
            reader.members((3 * 2, made.stat().st_size // 512))
    assert read[0] <= 5 * 257


def _counted(found: Scan, read: list[int]) -> Scan:
    read.append(len(found.members))
    return found


def test_samples_of_a_small_shard_are_kept_however_it_is_sorted(tmp_path: Path) -> None:
    members = sorted((m for n in range(80) for m in sample(n)), key=lambda member: member[0][-4:])
    made = tar(tmp_path / "a.tar", members)
    index = prepare(Tars({"train": [made]}), tmp_path / "shards", rules=SampleRules(interleaved="keep"))
    assert index.split_samples("train") == 80


def test_a_sample_of_many_files_is_left_out(tmp_path: Path) -> None:
    one = sample(1)
    more = [(f"k0001.mask{n}", b"x") for n in range(300)]
    made = tar(tmp_path / "a.tar", sample(0), [*one[:2], *more, one[2]], [*sample(2), ("k0002.mask", b"x")])
    index = prepare(Tars({"train": [made]}), tmp_path / "shards", max_skipped_fraction=0.5)
    assert index.skips["train"] == {records.TOO_LARGE: 1}
    assert keys(tmp_path / "shards") == ["k0000", "k0002"]


def test_truncated_tar_gives_complete_samples_and_counts_as_damaged(tmp_path: Path) -> None:
    whole = [tar(tmp_path / f"{n}.tar", *(sample(10 * n + at) for at in range(10))) for n in range(3)]
    content = whole[1].read_bytes()
    cut = tmp_path / "cut.tar"
    # Nine samples of three files with one block each, and a part of the tenth sample.
    cut.write_bytes(content[: 9 * 3 * 1024 + 1024 + 100])
    index = prepare(Tars({"train": [whole[0], cut, whole[2]]}), tmp_path / "shards", max_skipped_fraction=0.5)
    assert index.skips["train"][records.TRUNCATED_SHARD] == 1
    assert one_of(index, tmp_path / "shards", records.TRUNCATED_SHARD) == (str(cut), str(cut))
    assert keys(tmp_path / "shards") == [f"k{n:04d}" for n in [*range(19), *range(20, 30)]]
    found = load_statistics(tmp_path / "shards").splits["train"]
    assert (found.shards, found.damaged_shards) == (3, 1)
    # The mean number of samples per shard, because the true number is unknown.
    assert found.unusable >= 10


def test_a_cut_between_two_files_and_a_damaged_header_are_found_too(tmp_path: Path) -> None:
    content = tar(tmp_path / "a.tar", *map(sample, range(6))).read_bytes()
    for name, damaged in {
        "cut": content[: 4 * 3 * 1024],
        "header": content[: 4 * 3 * 1024] + b"\xff" * 512 + content[4 * 3 * 1024 + 512 :],
        "zeros": content[: 4 * 3 * 1024] + b"\0" * 512 + content[4 * 3 * 1024 + 512 :],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(damaged)
        index = prepare(Tars({"train": [tmp_path / f"{name}.tar"]}), tmp_path / name, max_skipped_fraction=0.6)
        assert index.skips == {"train": {records.TRUNCATED_SHARD: 1}}
        assert keys(tmp_path / name) == ["k0000", "k0001", "k0002", "k0003"]


def test_unreadable_shard_counts_as_the_mean_of_the_others(tmp_path: Path) -> None:
    good = [tar(tmp_path / f"{n}.tar", *(sample(10 * n + at) for at in range(10))) for n in range(3)]
    (tmp_path / "bad.tar").write_bytes(b"no tar " * 999)
    source = Tars({"train": [*good, tmp_path / "bad.tar"]})
    with pytest.raises(ConfigError, match=r"25\.0% of the samples.*unreadable_shard"):
        prepare(source, tmp_path / "shards", max_skipped_fraction=0.1)
    assert prepare(source, tmp_path / "shards", max_skipped_fraction=0.25).split_samples("train") == 30


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_unreachable_shard_is_an_error_or_counted(tmp_path: Path, policy: str) -> None:
    storage = Storage(StorageConfig(retries=0, unreachable=policy))  # type: ignore[arg-type]
    good = tar(tmp_path / "a.tar", sample(1), sample(2))
    source = Tars({"train": [good, tmp_path / "gone.tar"]}, storage=storage)
    if policy == "stop":
        with pytest.raises(StorageError, match=r"gone\.tar"):
            prepare(source, tmp_path / "shards")
        tar(tmp_path / "gone.tar", sample(3))
        assert prepare(source, tmp_path / "shards").split_samples("train") == 3
    else:
        index = prepare(source, tmp_path / "shards", max_skipped_fraction=0.5)
        assert index.skips == {"train": {records.UNREADABLE_SHARD: 1}}
        assert keys(tmp_path / "shards") == ["k0001", "k0002"]


@pytest.mark.parametrize("processes", [1, 2])
def test_duplicates_of_earlier_shards_are_left_out(tmp_path: Path, processes: int) -> None:
    same = image_bytes(1)
    tars = [
        tar(tmp_path / "0.tar", sample(0), sample(1), sample(2, image=same)),
        tar(tmp_path / "1.tar", sample(3), sample(0), sample(4, image=same), sample(5, txt=b" web 1\n")),
        tar(tmp_path / "2.tar", sample(0)),
    ]
    rules = SampleRules(filters=FilterConfig(duplicate_images=True, duplicate_captions=True))
    index = prepare(
        Tars({"train": tars}), tmp_path / "shards", processes=processes, max_skipped_fraction=0.5, rules=rules
    )
    assert keys(tmp_path / "shards") == ["k0000", "k0001", "k0003"]
    assert [entry.samples for entry in index.split("train")] == [2, 1]
    assert index.split("train")[1].keys_digest == digest_keys(["k0003"])
    assert index.skips == {"train": {records.DUPLICATE_KEY: 2}}
    found = load_statistics(tmp_path / "shards")
    assert found.splits["train"].filtered == {filters.DUPLICATE_CAPTION: 1, filters.DUPLICATE_IMAGE: 2}
    assert found.splits["train"].histograms["web_words"].count == 3
    where = {(example.shard, example.key, example.reason) for example in found.examples}
    assert (str(tars[2]), "k0000", records.DUPLICATE_KEY) in where
    assert (str(tars[1]), "k0004", filters.DUPLICATE_IMAGE) in where


def test_score_and_fields_of_the_source_are_used(tmp_path: Path) -> None:
    fields = SampleFields(score="score")
    made = tar(tmp_path / "a.tar", *map(sample, range(6)))
    source = Tars({"train": [made]}, fields)
    index = prepare(source, tmp_path / "shards", rules=SampleRules(filters=FilterConfig(min_score=0.3)))
    assert keys(tmp_path / "shards") == ["k0003", "k0004", "k0005"]
    assert index.fields == fields
    # Filtered samples do not count as bad.
    assert (index.skips, load_statistics(tmp_path / "shards").unusable_fraction()) == ({"train": {}}, 0.0)


def test_rewritten_shards_repair_interleaved_samples_and_count_truncation(tmp_path: Path) -> None:
    one, two = sample(1), sample(2)
    made = tar(tmp_path / "a.tar", [one[0], two[0], *one[1:], *two[1:]], sample(3), BAD[records.EMPTY_FILE], sample(4))
    made.write_bytes(made.read_bytes()[: 27 * 512])
    index = prepare(Tars({"train": [made]}, rewrite=True), tmp_path / "shards", max_skipped_fraction=0.8)
    assert index.skips["train"] == {
        records.EMPTY_FILE: 1,
        records.EMPTY_SYNTHETIC_CAPTION: 1,
        records.TRUNCATED_SHARD: 1,
    }
    with tarfile.open(tmp_path / "shards" / "train" / "00000.tar") as found:
        names = found.getnames()
    assert names == [f"k000{number}.{ending}" for number in (1, 2, 3) for ending in ("json", "png", "txt")]


@pytest.mark.parametrize("ending", ["png", "txt", "json"])
def test_empty_file_of_any_kind_is_skipped(tmp_path: Path, ending: str) -> None:
    made = tar(tmp_path / "a.tar", sample(1), sample(2, **{ending: b""}))
    index = prepare(Tars({"train": [made]}), tmp_path / "shards", max_skipped_fraction=0.5)
    assert index.skips == {"train": {records.EMPTY_FILE: 1}}
    assert f"k0002.{ending} has 0 bytes" in index.examples[0]


def test_evaluation_data_needs_no_captions_and_sources_add_notes(tmp_path: Path) -> None:
    class Evaluation(ListSource):
        def notes(self) -> dict[str, int]:
            return {"rows_without_sample": 7}

    none: dict[str, Any] = {"web_captions": (), "synthetic_captions": ()}
    made = [record(1, label=3, **none), record(2, **none)]
    index = prepare(Evaluation({"test": [list(made)]}, needs_captions=False), tmp_path / "shards")
    assert index.fields == SampleFields(needed=False)
    assert list(eval_samples(tmp_path / "shards", "test")) == made
    found = load_statistics(tmp_path / "shards")
    assert found.notes == {"rows_without_sample": 7}
    # Missing captions are not identical captions.
    assert (found.splits["test"].duplicate_captions, found.splits["test"].identical_captions) == (0, 0)
    with pytest.raises(ConfigError, match="no sample"):
        prepare(ListSource({"test": [list(made)]}), tmp_path / "needed")
