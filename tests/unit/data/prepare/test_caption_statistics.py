"""Statistics of several captions an image, and the refusal of texts that are no captions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.data.samples import ListSource, record, source

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.caption_statistics import (
    MAX_CAPTIONERS,
    OTHER_CAPTIONERS,
    CaptionCount,
    CaptionCounter,
    CaptionerStatistics,
    is_list_as_text,
    limit_captioners,
)
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import STATISTICS_FILE, Histogram, Statistics, load_statistics
from clips_pipeline.data.shards.records import Caption, Record


class Named(ListSource):
    captioners = ("llava", "blip")  # type: ignore[assignment]


def several(count: int) -> list[Record]:
    """Every sample has a caption by `llava` of number words, every fourth one of three words by `blip` too."""
    return [
        record(
            number,
            web_captions=(f"web {number}", f"other {number}") if number % 2 else (f"web {number}",),
            synthetic_captions=(
                Caption(" ".join(["word"] * (number + 1)) + f" {number}", "llava"),
                *((Caption("A small dog.", "blip"),) if number % 4 == 0 else ()),
            ),
        )
        for number in range(count)
    ]


def made(records: Sequence[Record], tmp_path: Path, tasks: int = 2, kind: type[ListSource] = ListSource) -> Statistics:
    step = -(-len(records) // tasks)
    parts = [list(records[at : at + step]) for at in range(0, len(records), step)]
    prepare(kind({"train": parts}), tmp_path / "shards")  # type: ignore[arg-type]
    return load_statistics(tmp_path / "shards")


def test_captioners_are_counted_over_all_jobs(tmp_path: Path) -> None:
    found = made(several(20), tmp_path).splits["train"].captions
    assert found.names == ("blip", "llava")
    assert {name: (one.samples, one.words.count, one.words.mean) for name, one in found.captioners.items()} == {
        "blip": (5, 5, 3.0),
        "llava": (20, 20, 11.5),
    }
    assert (found.web.bins, found.synthetic.bins) == (((1, 10), (2, 10)), ((1, 15), (2, 5)))
    # Number of jobs and processes change nothing.
    assert made(several(20), tmp_path / "one", tasks=1).splits["train"].captions == found


def test_the_file_of_plain_data_is_as_before(tmp_path: Path) -> None:
    prepare(source(4), tmp_path / "shards")
    assert "captions" not in json.loads((tmp_path / "shards" / STATISTICS_FILE).read_text())["splits"]["train"]
    assert load_statistics(tmp_path / "shards").splits["train"].captions.is_plain


def test_names_without_end_are_counted_together() -> None:
    parts = [
        {f"name {number:05d}": CaptionerStatistics(1, Histogram(1, 2, 2, 2, ((2, 1),)))} for number in range(5_000)
    ]
    found: dict[str, CaptionerStatistics] = {}
    for part in parts:
        found = limit_captioners(found, part)
    assert len(found) <= MAX_CAPTIONERS
    assert sum(one.samples for one in found.values()) == 5_000
    assert found[OTHER_CAPTIONERS].samples > 4_000
    counter = CaptionCounter()
    for number in range(300):
        counter.add(CaptionCount(1, ((f"name {number}", 2),), {}))
    assert len(counter.statistics().captioners) <= MAX_CAPTIONERS


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("['A dog.', 'Two.']", True),
        ('[ "A dog." ]', True),
        ("[sic] a dog", False),
        ("['", False),
        ("[1, 2]", False),
        ("", False),
    ],
)
def test_a_list_written_as_text_is_recognized(text: str, listed: bool) -> None:
    assert is_list_as_text(text) is listed


def test_odd_captions_are_noted(tmp_path: Path) -> None:
    records = several(8)
    records[1] = replace(records[1], synthetic_captions=(Caption("['A dog.']", "llava"),))
    records[2] = replace(records[2], synthetic_captions=(Caption("Same.", "llava"), Caption(" Same. ", "blip")))
    found = made(records, tmp_path)
    assert found.splits["train"].noted == {"list_as_text": 1, "repeated_synthetic_caption": 1}
    assert {(example.reason, example.key) for example in found.examples} == {
        ("list_as_text", "k0001"),
        ("repeated_synthetic_caption", "k0002"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n: {"web_captions": ("x",) if n % 4 else (f"web {n}",)},
            "train: half of the web captions .* one character",
        ),
        (
            lambda n: {"synthetic_captions": (Caption("x"),)},
            "half of the synthetic captions .* taken apart into its characters",
        ),
        (lambda n: {"synthetic_captions": (Caption(f"['A {n}.']"),)}, "100 of 100 samples have a list written as text"),
        (lambda n: {"web_captions": ("a photo",)}, "all 100 web captions are one and the same text; name the field"),
    ],
)
def test_texts_that_are_no_captions_are_refused(change: object, message: str, tmp_path: Path) -> None:
    records = [record(number, **change(number)) for number in range(100)]  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message):
        made(records, tmp_path)
    # The finished jobs are kept, and few samples may be so by chance.
    made(records[:99], tmp_path / "few")


def test_a_captioner_without_any_caption_is_refused(tmp_path: Path) -> None:
    assert made(several(8), tmp_path, kind=Named).splits["train"].captions.names == ("blip", "llava")
    alone = [replace(one, synthetic_captions=one.synthetic_captions[:1]) for one in several(8)]
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"no sample has a caption of captioner 'blip' \(found: llava\); correct"):
            made(alone, tmp_path / "alone", kind=Named)
