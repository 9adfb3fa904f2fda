"""Files of a sample above a limit are not read; JSON and captions are bounded; the same limits hold in every reader."""

import io
import json
import os
import resource
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import image_bytes, record, source

from clips_pipeline.config import to_mapping
from clips_pipeline.data.limits import PILLOW_PIXELS, SampleLimits
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.prepare.run import fingerprint, prepare
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards import sample_reader
from clips_pipeline.data.shards.index import INDEX_FILE, load_index
from clips_pipeline.data.shards.reader import ShardSet, eval_samples, parse_json, parse_sample
from clips_pipeline.data.shards.records import SampleFields, Skip
from clips_pipeline.data.shards.sample_reader import SampleReader
from clips_pipeline.data.shards.tar_file import BadSampleError, Members, TarFile

LIMITS = SampleLimits(max_image_bytes=3_000, max_caption_bytes=200, max_json_bytes=500)


def tar(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as made:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def files(key: str, **changes: bytes) -> list[tuple[str, bytes]]:
    found = {"png": image_bytes(1), "txt": b"web", "json": b'{"re_caption": "long"}', "cls": b"1"} | changes
    return [(f"{key}.{ending}", content) for ending, content in found.items()]


@pytest.mark.parametrize(
    ("ending", "size", "reason", "limit"),
    [
        ("png", 3_001, "too_large", "max_image_bytes is 3000"),
        ("txt", 201, "caption_too_long", "max_caption_bytes is 200"),
        ("json", 501, "too_large", "max_json_bytes is 500"),
        ("cls", 201, "too_large", "max_caption_bytes is 200"),
    ],
)
def test_a_larger_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, size: int, reason: str, limit: str
) -> None:
    made = tar(tmp_path / "a.tar", *files("a"), *files("b", **{ending: bytes(size)}), *files("c"))
    monkeypatch.setattr(sample_reader, "_MAX_BYTES_AT_ONCE", 0)  # read file by file, as a large sample is
    read: list[int] = []
    monkeypatch.setattr(os, "pread", lambda *args, real=os.pread: read.append(args[1]) or real(*args))
    with TarFile(made, LIMITS) as whole, SampleReader(made, LIMITS) as by_span:
        for row in (0, 2):
            assert whole.read(row).text == by_span.members(tuple(whole.spans[row].tolist())).text == b"web"
        read.clear()
        for call in (lambda: whole.read(1), lambda: by_span.members(tuple(whole.spans[1].tolist()))):
            with pytest.raises(BadSampleError) as bad:
                call()
            assert (bad.value.skip.reason, bad.value.skip.key) == (reason, "b")
            assert f"has {size} bytes; {limit}" in bad.value.skip.detail
    assert set(read) <= {512}  # headers alone


def test_a_huge_file_takes_no_memory(tmp_path: Path) -> None:
    made = tar(tmp_path / "a.tar", *files("a"))
    info = tarfile.TarInfo("b.jpg")
    info.size = 7 << 30
    made.write_bytes(info.tobuf())  # the header alone
    os.truncate(made, 512 + info.size)  # zeros that the disk does not hold
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TarFile(made) as whole, SampleReader(made) as reader:
        for read in (lambda: whole.read(0), lambda: reader.members(tuple(whole.spans[0].tolist()))):
            with pytest.raises(BadSampleError, match="too_large b: its image has 7516192768 bytes"):
                read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_two_files_of_one_kind_are_not_both_read(tmp_path: Path) -> None:
    many = [("a.jpg", bytes([n]) * 2_000) for n in range(50)]
    with TarFile(tar(tmp_path / "a.tar", *many, ("a.txt", b"text")), LIMITS) as whole:
        assert whole.read(0).image == bytes(2_000)
        assert whole.read(0).text == b"text"


@pytest.mark.parametrize("size", [600, 5_000])
def test_the_limit_of_extended_headers(tmp_path: Path, size: int) -> None:
    made = tar(tmp_path / "a.tar", *files("a"), *files("b" * size))
    low, high = SampleLimits(max_header_bytes=512), SampleLimits(max_header_bytes=10_240)
    with TarFile(made, low) as cut, TarFile(made, high) as whole:
        assert (cut.keys, whole.keys) == (["a"], ["a", "b" * size])
        with SampleReader(made, high) as reader:
            assert reader.members(tuple(whole.spans[1].tolist())).text == b"web"
        with SampleReader(made, low) as reader, pytest.raises(BadSampleError, match="no sample at this position"):
            reader.members(tuple(whole.spans[1].tolist()))


def members(facts: Any, text: bytes = b"web") -> Members:
    return Members("k", "png", b"x", text, facts if isinstance(facts, bytes) else json.dumps(facts).encode())


def nested(levels: int) -> Any:
    return [] if levels == 1 else [nested(levels - 1)]


def test_json_is_limited_in_depth() -> None:
    limits = SampleLimits(max_json_depth=5)
    for good in (
        {"a": nested(4)},
        {"a": ["[[[[[[[[", '\\"{{{{{{{{', {"b{": "}"}] * 9},  # brackets in texts, and many of them in turn
    ):
        assert parse_json(members(good), limits) == good
    for bad in (members({"a": nested(5)}), members(b"[" * 100_000), members(b'"' + b"[{" * 9 + b'\\"' * 9 + b"[" * 9)):
        with pytest.raises(BadSampleError, match=r"too_large k: its JSON has|bad_record"):
            parse_json(bad, limits)
    with pytest.raises(BadSampleError, match="6 levels; max_json_depth is 5"):
        parse_json(members({"a": nested(5)}), limits)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * 11, "word_too_long"),
        ("ab " * 9 + "c" * 11, "word_too_long"),
        ("a " * 51, "caption_too_long"),
        ("é " * 34, "caption_too_long"),
        ("\N{GRINNING FACE}" * 26, "caption_too_long"),
    ],
)
def test_captions_are_limited_in_bytes_and_words(text: str, reason: str) -> None:
    limits = SampleLimits(max_caption_bytes=101, max_word_characters=10)
    assert parse_sample(members({"re_caption": "é " * 33}), SampleFields(), limits=limits).synthetic_caption
    with pytest.raises(BadSampleError) as bad:
        parse_sample(members({"re_caption": text}), SampleFields(), limits=limits)
    assert bad.value.skip.reason == reason
    for changes in ({"web_caption": text}, {"synthetic_caption": text}, {"captions": ("a", text)}):
        found = validate_record(record(1, **changes), limits)
        assert isinstance(found, Skip)
        assert found.reason == reason
        assert len(found.detail) < 100


def test_human_captions_keys_and_their_json_are_limited() -> None:
    limits = SampleLimits(max_captions=3, max_json_bytes=300, max_header_bytes=512)
    assert validate_record(record(1, captions=("a", "b", "c")), limits) == (24, 20)
    for changes, reason in (
        ({"captions": ("a",) * 4}, "too_many_captions"),
        ({"captions": ("\x01" * 60,)}, "too_large"),  # six bytes for each in JSON
        ({"synthetic_caption": "a " * 200}, "too_large"),
        ({"key": "k" * 65}, "bad_record"),
    ):
        found = validate_record(record(1, **changes), limits)
        assert isinstance(found, Skip)
        assert found.reason == reason


def test_whatever_prepare_writes_is_read_with_its_limits(tmp_path: Path) -> None:
    """Also what is above the default limits: a higher limit holds in every reader of the folder."""
    limits = SampleLimits(max_caption_bytes=200_000, max_json_bytes=3_000_000, max_word_characters=200_000)
    long = record(1, synthetic_caption="ab" * 90_000, captions=("\x01" * 190_000,), key="k" * 1_000)
    made = source(limits=limits)
    made.parts["train"] = [[long, record(2)]]
    index = prepare(made, tmp_path / "shards", max_skipped_fraction=0.0)
    assert index.limits == load_index(tmp_path / "shards").limits == limits
    assert list(eval_samples(tmp_path / "shards", "train")) == [long, record(2)]
    assert {r.limits for r in eval_samples(tmp_path / "shards", "train")} == {limits}


def test_the_limits_are_part_of_the_data(tmp_path: Path) -> None:
    made, other = source(), source(limits=SampleLimits(max_pixels=1_000))
    assert fingerprint(made, 10, SampleRules()) != fingerprint(other, 10, SampleRules())
    prepare(made, tmp_path / "shards")
    prepare(other, tmp_path / "shards")
    assert ShardSet(tmp_path / "shards", "train").limits.max_pixels == 1_000


def test_an_index_without_limits_has_those_of_its_time(tmp_path: Path) -> None:
    prepare(source(), tmp_path / "shards")
    file = tmp_path / "shards" / INDEX_FILE
    facts = json.loads(file.read_text())
    assert facts["limits"] == to_mapping(SampleLimits())
    del facts["limits"]
    file.write_text(json.dumps(facts))
    assert load_index(tmp_path / "shards").limits == SampleLimits(max_pixels=PILLOW_PIXELS)
    assert len(list(eval_samples(tmp_path / "shards", "train"))) == 10
