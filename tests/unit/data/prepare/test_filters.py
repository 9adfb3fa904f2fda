"""Filters: each drops what it should, counts it separately from bad samples, and is part of the fingerprint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import ListSource, image_bytes, record

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.prepare import filters
from clips_pipeline.data.prepare.filters import CaptionFilter, FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import is_current, prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards.reader import eval_samples

WORDS = "A bird sits on a wire."

# Setting; a sample that just passes; a sample that just fails; the reason.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "min_side": ({"min_side": 20}, {"image": (30, 20)}, {"image": (30, 19)}, filters.TOO_SMALL),
    "max_aspect": ({"max_aspect": 1.5}, {"image": (20, 30)}, {"image": (20, 31)}, filters.ASPECT_RATIO),
    "web min_words": ({"web": {"min_words": 2}}, {"web_caption": " a  b "}, {"web_caption": "a"}, filters.WEB_LENGTH),
    "web max_words": ({"web": {"max_words": 2}}, {"web_caption": "a b"}, {"web_caption": "a b c"}, filters.WEB_LENGTH),
    "web min_characters": (
        {"web": {"min_characters": 3}},
        {"web_caption": "日本語"},
        {"web_caption": " ab "},
        filters.WEB_LENGTH,
    ),
    "max_characters": (
        {"synthetic": {"max_characters": 17}},
        {"synthetic_caption": "a b c" + "d" * 12},
        {"synthetic_caption": "abc de" + "f" * 12},
        filters.SYNTHETIC_LENGTH,
    ),
    "letters": (
        {"web": {"min_letter_fraction": 0.5}},
        {"web_caption": "ab 12"},
        {"web_caption": "ab 123"},
        filters.WEB_CHARACTERS,
    ),
    "letters of any script": (
        {"web": {"min_letter_fraction": 0.75}},
        {"web_caption": "हिन्दी 日本"},
        {"web_caption": "日本!"},
        filters.WEB_CHARACTERS,
    ),
    "max_run": ({"web": {"max_run": 3}}, {"web_caption": "a!!!"}, {"web_caption": "a!!!!"}, filters.WEB_CHARACTERS),
    "control": (
        {"web": {"printable": True}},
        {"web_caption": "a\tb\nc"},
        {"web_caption": "a\x07b"},
        filters.WEB_CHARACTERS,
    ),
    "replacement": (
        {"synthetic": {"printable": True}},
        {"synthetic_caption": "é"},
        {"synthetic_caption": "\ufffd"},
        filters.SYNTHETIC_CHARACTERS,
    ),
    "identical": (
        {"identical_captions": True},
        {"web_caption": WORDS, "synthetic_caption": WORDS.upper()},
        {"web_caption": WORDS, "synthetic_caption": f" {WORDS}\n"},
        filters.IDENTICAL_CAPTIONS,
    ),
    "score": ({"min_score": 0.3}, {"score": 0.3}, {"score": 0.29}, filters.LOW_SCORE),
    "no number": ({"min_score": 0.3}, {"score": 0.3}, {"score": float("nan")}, filters.LOW_SCORE),
    "no score": ({"min_score": 0.3}, {"score": 0.3}, {"score": None}, filters.NO_SCORE),
    "image": ({"duplicate_images": True}, {}, {"image": image_bytes(1)}, filters.DUPLICATE_IMAGE),
    "caption": ({"duplicate_captions": True}, {}, {"web_caption": " web 1 "}, filters.DUPLICATE_CAPTION),
}


def made(number: int, changes: dict[str, Any]) -> Any:
    size = changes.get("image")
    return record(number, **changes | ({"image": image_bytes(number, size)} if isinstance(size, tuple) else {}))


@pytest.mark.parametrize("case", CASES)
def test_filter_drops_matching_samples_only(tmp_path: Path, case: str) -> None:
    config, good, bad, reason = CASES[case]
    # All cases have a score.
    first = record(1, score=1.0)
    source = ListSource({"train": [[first, made(2, good)], [made(3, bad)]]})
    rules = SampleRules(filters=from_mapping(FilterConfig, config, "filters"))
    index = prepare(source, tmp_path / "shards", max_skipped_fraction=0.0, rules=rules)
    assert [found.key for found in eval_samples(tmp_path / "shards", "train")] == ["k0001", "k0002"]
    statistics = load_statistics(tmp_path / "shards")
    assert (index.skips, statistics.splits["train"].filtered) == ({"train": {}}, {reason: 1})
    assert [(example.reason, example.key, example.shard) for example in statistics.examples] == [(reason, "k0003", "1")]
    assert is_current(source, tmp_path / "shards", rules=rules)
    # Without the filter nothing is dropped, and these shards are not current.
    assert not is_current(source, tmp_path / "shards")
    assert prepare(source, tmp_path / "shards").split_samples("train") == 3


def test_without_filters_all_usable_samples_are_kept() -> None:
    odd = record(1, web_caption="!!!!!!!!!!\x07\ufffd", synthetic_caption="!!!!!!!!!!\x07\ufffd")
    assert FilterConfig().find_fault(odd, (1, 10_000)) is None


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (FilterConfig, {"min_side": 0}, "min_side: 0 must be at least 1"),
        (FilterConfig, {"max_aspect": 0.5}, "max_aspect: 0.5 must be at least 1"),
        (CaptionFilter, {"min_words": 5, "max_words": 4}, "min_words: 5 is above max_words 4"),
        (CaptionFilter, {"max_characters": 0}, "max_characters: 0"),
        (CaptionFilter, {"min_letter_fraction": 50.0}, "at most 1"),
        (CaptionFilter, {"max_run": 0}, "max_run: 0"),
    ],
)
def test_invalid_filters_are_refused(kind: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(kind, wrong, "filters")


def test_error_without_remaining_samples_has_the_reasons(tmp_path: Path) -> None:
    rules = SampleRules(filters=FilterConfig(min_score=0.1))
    with pytest.raises(
        ConfigError, match=r"no sample \(0 skipped, 2 filtered; first left out: train no_score.*fields\.score"
    ):
        prepare(ListSource({"train": [[record(1), record(2)]]}), tmp_path / "shards", rules=rules)


def test_duplicates_are_counted_without_filters(tmp_path: Path) -> None:
    same = record(1, web_caption="a", synthetic_caption="a")
    others = [replace(same, key=f"other{number}") for number in range(3)]
    prepare(ListSource({"train": [[same, others[0]], [others[1], others[2]]]}), tmp_path / "shards")
    found = load_statistics(tmp_path / "shards").splits["train"]
    assert (found.kept, found.filtered) == (4, {})
    assert (found.duplicate_images, found.duplicate_captions, found.identical_captions) == (3, 3, 4)
