"""Several captions of an image: in KEY.json, in shards that are written, and in those read in place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import record, source, write_shard

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards.caption_values import CaptionTypeError, parse_captions
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples, parse_sample
from clips_pipeline.data.shards.records import Caption, SampleFields, Skip
from clips_pipeline.data.shards.tar_file import BadSampleError, Members, TarFile
from clips_pipeline.data.shards.writer import make_sample

SEVERAL = record(
    1, web_captions=("a", "b"), synthetic_captions=(Caption("One. Two.", "llava"), Caption("Three.", "sharegpt"))
)


def members(facts: Any, text: bytes | None = b"web") -> Members:
    return Members("k", "jpg", b"i", text, json.dumps(facts).encode())


def read(facts: Any, fields: SampleFields = SampleFields(), text: bytes | None = b"web") -> Any:  # noqa: B008
    return parse_sample(members(facts, text), fields)


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("one", [("one", "x")]),
        (None, []),
        ([], []),
        (["one", "two"], [("one", "x"), ("two", "x")]),
        ([{"captioner": "a", "text": "one"}, {"text": "two"}, "three"], [("one", "a"), ("two", "x"), ("three", "x")]),
        ([None, "one", {"captioner": "a", "text": None}], [("one", "x")]),
        ({"a": [None, "one"], "b": None}, [("one", "a")]),
        ({"captioner": "a", "text": "one"}, [("one", "a")]),
        ({"captioner": ["a", None], "text": ["one", "two"]}, [("one", "a"), ("two", "x")]),
        ({"a": "one", "b": ["two", "three"], "c": None}, [("one", "a"), ("two", "b"), ("three", "b")]),
        (["A", "B", "C"], [("A", "x"), ("B", "x"), ("C", "x")]),  # three tags; longer ones are the letters of a text
    ],
)
def test_every_form(value: object, captions: list[tuple[str, str]]) -> None:
    assert parse_captions(value, "x") == [Caption(*caption) for caption in captions]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (list("A dog."), r"is a list of the characters of one text \('A dog\.'…\); give the text"),
        ({"a": list("A dog.")}, "is a list of the characters"),
        ({"captioner": ["a"], "text": ["one", "two"]}, "has 1 captioners and 2 texts"),
        ({"captioner": ["a"], "text": "one"}, "captioner that is not a printable name"),
        (3, "is not text: it holds a int"),
        ([3], "its list holds a int that is no caption"),
        ([["one"]], "its list holds a list"),
        ([{"captioner": "a"}], "its list holds a dict"),
        ({"a": {"b": "one"}}, "under 'a' it holds neither a text nor a list of texts"),
        ({"a": [{"text": "one"}]}, "under 'a'"),
        ({"a\n": "one"}, "captioner that is not a printable name"),
        ([{"captioner": "a" * 201, "text": "b"}], "captioner that is not a printable name of at most 200"),
        ([{"captioner": ["a"], "text": "b"}], "captioner that is not a printable name"),
    ],
)
def test_wrong_types_are_named(value: object, message: str) -> None:
    with pytest.raises(CaptionTypeError, match=message):
        parse_captions(value)
    with pytest.raises(BadSampleError, match="'re_caption' ") as bad:
        read({"re_caption": value})
    assert bad.value.skip.reason == "bad_record"


def test_fields_of_several_captioners() -> None:
    facts = {"short": "S.", "long": ["L1.", "L2."], "alt": "alt"}
    named = SampleFields(web=("txt", "alt"), synthetic={"blip": "short", "llava": "long"})
    found = read(facts, named)
    assert found.web_captions == ("web", "alt")
    assert found.synthetic_captions == (Caption("S.", "blip"), Caption("L1.", "llava"), Caption("L2.", "llava"))
    listed = SampleFields(synthetic=("short", "missing", "long"))
    assert [caption.captioner for caption in read(facts, listed).synthetic_captions] == ["short", "long", "long"]
    assert (named.captioners, listed.captioners, SampleFields().captioners) == (
        ("blip", "llava"),
        ("short", "missing", "long"),
        (),
    )
    with pytest.raises(BadSampleError, match=r"nothing under 'no' or 'none'; its JSON has: alt, long, short"):
        read(facts, SampleFields(synthetic=("no", "none")))
    # A captioner that failed is left out.
    assert read(facts | {"short": " "}, named).synthetic_captions == found.synthetic_captions[1:]
    for fields in (named, listed):
        assert from_mapping(SampleFields, to_mapping(fields), "fields") == fields


@pytest.mark.parametrize(
    "fields",
    [
        {"synthetic": []},
        {"synthetic": ["a", "a"]},
        {"synthetic": ["txt"]},
        {"synthetic": {"a": ""}},
        {"web": ["a", "re_caption"]},
    ],
)
def test_impossible_names_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"two different names|named twice"):
        from_mapping(SampleFields, fields, "fields")


def test_several_captions_are_written_and_read_back(tmp_path: Path) -> None:
    made, several = source(4), replace(SEVERAL, key="several")
    made.parts["train"][0].append(several)
    prepare(made, tmp_path / "shards")
    assert list(eval_samples(tmp_path / "shards", "train")) == [record(0), record(1), several, record(2), record(3)]
    index = load_index(tmp_path / "shards")
    assert index.fields == SampleFields()


def test_a_written_sample_keeps_one_caption_where_others_read_it() -> None:
    made = make_sample(SEVERAL)
    assert made["txt"] == b"a"
    assert json.loads(made["json"]) == {
        "re_caption": "One. Two.",
        "synthetic_captions": [
            {"captioner": "llava", "text": "One. Two."},
            {"captioner": "sharegpt", "text": "Three."},
        ],
        "web_captions": ["a", "b"],
    }
    # One caption of an unknown captioner is written as before there could be several.
    assert json.loads(make_sample(record(1))["json"]) == {"re_caption": "Long 1. And more."}
    one = record(1, synthetic_captions=(Caption("Long.", "llava"),))
    assert json.loads(make_sample(one)["json"])["synthetic_captions"] == [{"captioner": "llava", "text": "Long."}]


def test_shards_of_several_captions_are_read_as_written(tmp_path: Path) -> None:
    one = record(2, synthetic_captions=(Caption("Long.", "llava"),))
    write_shard(tmp_path / "0.tar", [SEVERAL, one, record(3)], "0.tar")
    with TarFile(tmp_path / "0.tar") as tar:
        assert [parse_sample(tar.read(row), SampleFields()) for row in range(3)] == [SEVERAL, one, record(3)]


def test_the_number_of_captions_is_limited() -> None:
    limits = SampleLimits(max_captions=2)
    many = [f"caption {number}" for number in range(3)]
    assert parse_sample(members({"re_caption": many[:2]}), SampleFields(), limits=limits)
    for facts in ({"re_caption": many}, {"re_caption": "a", "web_captions": many}):
        with pytest.raises(BadSampleError) as bad:
            parse_sample(members(facts), SampleFields(), limits=limits)
        assert bad.value.skip.reason == "too_many_captions"
    for changes in ({"web_captions": tuple(many)}, {"synthetic_captions": tuple(map(Caption, many))}):
        found = validate_record(record(1, **changes), limits)
        assert isinstance(found, Skip)
        assert found.reason == "too_many_captions"
