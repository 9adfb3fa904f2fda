"""Tar files: ours read by webdataset, webdataset's read by us, and damaged ones."""

import dataclasses
import io
import json
import re
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from tests.unit.data.samples import image_bytes, record, write_shard

from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import parse_sample
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.shards.sample_reader import SampleReader
from clips_pipeline.data.shards.tar_file import BadSampleError, Members, TarFile
from clips_pipeline.data.shards.tar_headers import scan

FIELDS = SampleFields()


def test_same_records_same_bytes(tmp_path: Path) -> None:
    made = [record(number, captions=("x", "é"), label=2) for number in range(5)]
    first = write_shard(tmp_path / "a.tar", made, "a.tar")
    second = write_shard(tmp_path / "b.tar", made, "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert first == second
    assert first.bytes == (tmp_path / "a.tar").stat().st_size
    assert write_shard(tmp_path / "c.tar", made[:4], "a.tar").keys_digest != first.keys_digest


# webdataset leaves closing to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_project_shards(tmp_path: Path) -> None:
    made = [record(number, key=f"folder/k{number}", captions=("x", "é"), label=number) for number in range(3)]
    write_shard(tmp_path / "a.tar", made, "a.tar")
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["folder/k0", "folder/k1", "folder/k2"]
    for sample, wanted in zip(found, made, strict=True):
        assert sample["png"] == wanted.image
        assert sample["txt"].decode() == wanted.web_caption
        assert json.loads(sample["json"]) == {
            "re_caption": wanted.synthetic_caption,
            "captions": ["x", "é"],
            "label": wanted.label,
        }


def test_project_reads_webdataset_shards(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            facts = {"re_caption": f"long {number}", "url": "https://example.org"}
            sample = {"__key__": f"{number:09d}", "jpg": image_bytes(number, kind="JPEG"), "txt": "ü", "json": facts}
            writer.write(sample)
    with TarFile(tmp_path / "a.tar") as tar:
        assert tar.keys == [f"{number:09d}" for number in range(3)]
        found = parse_sample(tar.read(2), FIELDS)
    assert (found.web_caption, found.synthetic_caption, found.extension) == ("ü", "long 2", "jpg")
    assert found.image == image_bytes(2, kind="JPEG")


def _tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("key", ["plain", "a/b/c", "n" * 150, "d" * 90 + "/" + "e" * 90, "日本語"])
def test_every_kind_of_name(tmp_path: Path, key: str, form: int) -> None:
    _tar(tmp_path / "a.tar", [(f"{key}.JPEG", b"1" * 700), (f"{key}.txt", b"2"), (f"{key}.json", b"{}")], form)
    with TarFile(tmp_path / "a.tar") as tar:
        assert tar.keys == [key]
        assert tar.read(0) == Members(key, "jpg", b"1" * 700, b"2", b"{}")


def _write_with_webdataset(path: Path) -> None:
    # Times with fractions, as webdataset writes them, give an extended header before each file.
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(20):
            writer.write({"__key__": f"{number:09d}", "jpg": b"1" * (600 * number), "txt": "ü", "json": {"a": 1}})


def _write_with_project(path: Path) -> None:
    write_shard(path, [record(number) for number in range(20)], "a.tar")


def _write_long_names(path: Path) -> None:
    _tar(path, [(f"{'d' * 150}/{'é' if n % 2 else 'e'}{n}.{kind}", b"1" * n) for n in range(20) for kind in KINDS])


KINDS = ("jpg", "txt", "json")


@pytest.mark.parametrize("write", [_write_with_project, _write_with_webdataset, _write_long_names])
def test_headers_are_read_as_tarfile_reads_them(tmp_path: Path, write: Callable[[Path], None]) -> None:
    file = tmp_path / "a.tar"
    write(file)
    found = scan(file)
    with tarfile.open(file) as naive:
        assert [(m.name, m.offset, m.size) for m in found.members] == [
            (m.name, m.offset_data, m.size) for m in naive.getmembers()
        ]
    assert len(found.members) == 60
    assert found.fault is None


@pytest.mark.parametrize("write", [_write_with_project, _write_with_webdataset, _write_long_names])
def test_a_span_is_enough_to_read_a_sample(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.tar")
    with (
        TarFile(tmp_path / "a.tar") as tar,
        SampleReader(tmp_path / "a.tar") as reader,
        tarfile.open(tar.path) as naive,
    ):
        assert len(tar.keys) == 20
        for key, span in zip(tar.keys, tar.spans.tolist(), strict=True):
            image, text, facts = (naive.extractfile(f"{key}.{kind}") for kind in _kinds(naive, key))
            found = reader.members(tuple(span))
            assert found.key == key
            assert image is not None
            assert found.image == image.read()
            assert text is not None
            assert found.text == text.read()
            assert facts is not None
            assert found.json == facts.read()
            assert found == tar.read(tar.keys.index(key))
            without = reader.members(tuple(span), image=False)
            assert without == dataclasses.replace(found, image=b"")


def _kinds(tar: tarfile.TarFile, key: str) -> tuple[str, str, str]:
    return ("png" if f"{key}.png" in tar.getnames() else "jpg"), "txt", "json"


def test_a_span_of_a_file_that_has_changed_is_a_bad_sample(tmp_path: Path) -> None:
    _write_with_project(tmp_path / "a.tar")
    with TarFile(tmp_path / "a.tar") as tar:
        begin, end = tar.spans[3].tolist()
    for content in (b"", b"\0" * 100_000, b"x" * 100_000):
        (tmp_path / "a.tar").write_bytes(content)
        with SampleReader(tmp_path / "a.tar") as reader, pytest.raises(BadSampleError, match="unreadable_shard"):
            reader.members((begin, end))


def test_interleaved_samples_are_whole(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4"), ("a.json", b"5")])
    with TarFile(tmp_path / "a.tar") as tar:
        assert tar.read(0) == Members("a", "jpg", b"1", b"3", b"5")
        assert tar.read(1) == Members("b", "jpg", b"2", b"4", None)


def test_other_members_are_ignored(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.depth.npy", b"0"), ("notes.md", b"0"), ("._a.jpg", b"0")])
    with TarFile(tmp_path / "a.tar") as tar:
        assert tar.keys == ["a"]


def test_truncated_tar_gives_the_samples_before_the_end(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [record(number) for number in range(4)], "a.tar")
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: 4 * 512 + 100])
    with TarFile(tmp_path / "a.tar") as tar:
        assert tar.read(0).image == image_bytes(0)
        with pytest.raises(BadSampleError) as bad:
            tar.read(3)
    assert bad.value.skip.reason == records.UNREADABLE_SHARD


def _set_size(path: Path, number: int, size: bytes, target: Path) -> None:
    """Write another size, with a valid checksum, into the header of file `number`."""
    content = bytearray(path.read_bytes())
    at = [match.start() - 257 for match in re.finditer(b"ustar", content)][number]
    content[at + 124 : at + 136] = size.ljust(12, b"\0")
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    target.write_bytes(content)


@pytest.mark.parametrize(
    "size",
    [b"77777777777", b"-0000000001", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80\0\0\0\x7f" + b"\xff" * 7, b"zzz"],
    ids=["eight GB", "minus one", "beyond any number", "negative, base 256", "many GB, base 256", "no number"],
)
def test_absurd_sizes_end_the_shard_and_take_no_memory(tmp_path: Path, size: bytes) -> None:
    _tar(tmp_path / "good.tar", [(f"k{n}.txt", b"text") for n in range(4)])
    _set_size(tmp_path / "good.tar", 2, size, tmp_path / "bad.tar")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TarFile(tmp_path / "bad.tar") as tar:
        assert [tar.read(row).text for row in range(2)] == [b"text", b"text"]
        for row in range(2, len(tar.keys)):
            with pytest.raises(BadSampleError, match="unreadable_shard"):
                tar.read(row)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("content", [b"", b"no tar", b"no tar " * 200])
def test_invalid_tar_is_a_bad_sample(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadSampleError, match="unreadable_shard"):
        TarFile(tmp_path / "a.tar")


MEMBERS = {"key": "k", "extension": "jpg", "image": b"i", "text": b"web", "json": b'{"re_caption": "long"}'}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, records.MISSING_IMAGE),
        ({"text": None}, records.EMPTY_WEB_CAPTION),
        ({"text": b" "}, records.EMPTY_WEB_CAPTION),
        ({"text": b"\xff"}, records.NOT_UTF8),
        ({"json": None}, records.EMPTY_SYNTHETIC_CAPTION),
        ({"json": b'{"re_caption": null}'}, records.EMPTY_SYNTHETIC_CAPTION),
        ({"json": b'{"re_caption": [["long"]]}'}, records.BAD_RECORD),
        ({"json": b"[]"}, records.BAD_RECORD),
        ({"json": b"{"}, records.BAD_RECORD),
        ({"json": b"\xff"}, records.NOT_UTF8),
    ],
)
def test_incomplete_samples_say_why(changes: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(BadSampleError) as bad:
        parse_sample(Members(**(MEMBERS | changes)), FIELDS)  # type: ignore[arg-type]
    assert (bad.value.skip.reason, bad.value.skip.key) == (reason, "k")


def test_captions_by_name_of_field() -> None:
    facts = json.dumps({"org_caption": "from the web", "re_caption": "long", "llava": "other"}).encode()
    without_text = Members("k", "jpg", b"i", None, facts)
    assert parse_sample(without_text, FIELDS).web_caption == "from the web"
    # As img2dataset writes Recap-DataComp-1B if the caption column is `re_caption`.
    found = parse_sample(Members("k", "jpg", b"i", b"long", facts), SampleFields(web="org_caption", synthetic="txt"))
    assert (found.web_caption, found.synthetic_caption) == ("from the web", "long")
    assert parse_sample(without_text, SampleFields(synthetic="llava")).synthetic_caption == "other"
