"""Compositional questions in KEY.json: written, read again, and anything else under the same name ignored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import ListSource, record

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards.caption_questions import CaptionQuestion, parse_questions, questions_json
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.writer import make_sample

ASKED = (CaptionQuestion("swap_color", "a red hat", "a blue hat"), CaptionQuestion("number", "two é", "three é"))
GOOD = {"subset": "color", "caption": "a red hat", "negative_caption": "a blue hat"}


def test_questions_are_written_and_read_again(tmp_path: Path) -> None:
    prepare(ListSource({"test": [[record(0, questions=ASKED), record(1)]]}), tmp_path / "shards")
    assert [one.questions for one in eval_samples(tmp_path / "shards", "test")] == [ASKED, ()]


def test_a_sample_without_questions_is_written_as_before() -> None:
    assert "questions" not in json.loads(make_sample(record(0))["json"])
    assert json.loads(make_sample(record(0, questions=ASKED[:1]))["json"])["questions"] == [
        {"subset": "swap_color", "caption": "a red hat", "negative_caption": "a blue hat"}
    ]


def test_questions_survive_json() -> None:
    assert parse_questions(json.loads(json.dumps(questions_json(ASKED)))) == ASKED


@pytest.mark.parametrize(
    "value",
    [
        None,
        "what is this?",
        7,
        {"color": GOOD},
        ["what is this?"],
        [["color", "a red hat", "a blue hat"]],
        [{"question": "what is this?", "answer": "a hat"}],
        [{**GOOD, "caption": None}],
        [{**GOOD, "caption": " "}],
        [{**GOOD, "negative_caption": ["a blue hat"]}],
        [{**GOOD, "negative_caption": GOOD["caption"]}],
        *([{**GOOD, "subset": name}] for name in ("", "mean", "Color", "a/b", "=1", "a b", "9a", "é", "a" * 25, "a\n")),
    ],
)
def test_anything_else_is_no_question(value: Any) -> None:
    assert parse_questions(value) == ()
    good = [GOOD, *(value if isinstance(value, list) else [])]
    assert parse_questions(good) == (CaptionQuestion("color", "a red hat", "a blue hat"),)


@pytest.mark.parametrize(
    ("texts", "limits", "reason"),
    [
        (("ok", "x" * 40), {"max_caption_bytes": 20}, "caption_too_long"),
        (("\udcff", "ok"), {}, "not_utf8"),
        (("a", "b"), {"max_captions": 2}, "too_many_captions"),
    ],
)
def test_limits_of_captions_hold_for_questions(texts: tuple[str, str], limits: dict[str, int], reason: str) -> None:
    asked = (CaptionQuestion("color", *texts),) * 3
    found = validate_record(record(0, questions=asked), replace(DEFAULT_LIMITS, **limits))
    assert isinstance(found, Skip)
    assert found.reason == reason
    assert not isinstance(validate_record(record(0, questions=ASKED), SampleLimits()), Skip)
