"""Findings are reported when they apply, name the split, and are absent otherwise."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clips_pipeline.data.prepare.caption_statistics import CaptionerStatistics, CaptionStatistics
from clips_pipeline.data.prepare.statistics import Histogram, SplitStatistics, Statistics
from clips_pipeline.data.shards.index import Index, ShardEntry
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.reports.data.caption_lengths import STRATEGIES, Lengths, SplitTexts
from clips_pipeline.reports.data.findings import collect_findings

GOOD_LENGTHS = Lengths(77, [10] * 100, 20, unknown=50)
GOOD_TEXTS = SplitTexts(
    samples=100,
    total_samples=1000,
    shards=1,
    total_shards=10,
    unreadable=0,
    web=GOOD_LENGTHS,
    synthetic=replace(GOOD_LENGTHS, values=[20] * 100, capacity=126),
    human=replace(GOOD_LENGTHS, values=[], unknown=0),
    fragments={name: replace(GOOD_LENGTHS, values=[0] * 5 + [9] * 95) for name in STRATEGIES},
    sentences=np.array([1] * 50 + [2] * 50),
)
GOOD = SplitStatistics(
    kept=980,
    skipped={"not_utf8": 10},
    filtered={"too_small": 10},
    shards=10,
    duplicate_images=49,
    duplicate_captions=297,
    identical_captions=49,
    histograms={"image_aspect": Histogram.from_values(np.array([1000] * 95 + [200, 4000, 3100, 4000, 4000]))},
)


WHOLE = Histogram.from_values(np.array([2] * 100))
SEEN_BY, SEEN_BY_HALF = CaptionerStatistics(49), CaptionerStatistics(50)


def found(
    statistics: dict[str, Any] | None = None, texts: dict[str, Any] | None = None, samples: int = 1000
) -> list[str]:
    index = Index("f", {"some": (ShardEntry("a.tar", samples, 1, "", ""),)}, {})
    made = Statistics("f", {"some": replace(GOOD, **(statistics or {}))})
    return collect_findings(index, made, {"some": replace(GOOD_TEXTS, **(texts or {}))})


def test_no_findings_where_all_fractions_are_at_their_limits() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"skipped": {"not_utf8": 3, "bad_record": 9}}, "1.2 % of the samples are unusable; .* is bad_record"),
        ({"damaged_shards": 1}, "1 of 10 shards cannot be read to the end"),
        ({"damaged_shards": 1, "skipped": {}}, "the most frequent reason is damaged shards"),
        ({"skipped": {"unexpected: MemoryError": 2}}, r"2 samples raised an error .* \(unexpected: MemoryError\)"),
        (
            {"captions": CaptionStatistics(synthetic=WHOLE, captioners={"a": SEEN_BY, "": SEEN_BY, "b": SEEN_BY_HALF})},
            "captioner a has written captions of 49.0 % of the samples only; check the name of its field",
        ),
        ({"noted": {"interleaved": 7}}, "7 samples in the index are unusual: interleaved"),
        ({"duplicate_images": 50}, "5.1 % of the images are exact duplicates"),
        ({"duplicate_captions": 298}, "30.1 % of the web captions are duplicates of an earlier one"),
        ({"identical_captions": 50}, "identical in 5.1 % of the samples; check that the right field"),
        (
            {"histograms": {"image_aspect": Histogram.from_values(np.array([1000] * 90 + [200] * 5 + [5000] * 5))}},
            "10.0 % of the images have one side more than 3 times as long",
        ),
    ],
)
def test_findings_on_samples_and_images(statistics: dict[str, Any], message: str) -> None:
    warnings = found(statistics)
    assert all(warning.startswith("some: ") for warning in warnings)
    assert any(re.search(message, warning) for warning in warnings)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"frequent": {"web": ("stock photo", 11), "synthetic": ("The image shows a dog.", 10)}},
            "11.0 % of the samples have one and the same web caption, 'stock photo'",
        ),
        (
            {"web": replace(GOOD_LENGTHS, cut=21)},
            "21.0 % of the web captions are truncated: they are longer than the 77 ids",
        ),
        (
            {"synthetic": replace(GOOD_TEXTS.synthetic, cut=21)},
            "21.0 % of the synthetic captions are truncated: they are longer than the 126",
        ),
        (
            {"synthetic": replace(GOOD_TEXTS.synthetic, values=[19] * 100)},
            "short: 19 ids .median., against 10",
        ),
        ({"sentences": np.array([1] * 51 + [2] * 49)}, "51.0 % of the synthetic captions have fewer than 2 sentences"),
        ({"web": replace(GOOD_LENGTHS, unknown=51)}, "5.1 % of the ids of web captions are UNK"),
        ({"human": replace(GOOD_LENGTHS, unknown=51)}, "5.1 % of the ids of human captions are UNK"),
        ({"synthetic": replace(GOOD_TEXTS.synthetic, unknown=110)}, "5.5 % of the ids of synthetic captions"),
        (
            {"fragments": {"sub_caption": replace(GOOD_TEXTS.fragments["sub_caption"], replaced=1)}},
            "6.0 % of the sub_caption fragments are empty or replaced",
        ),
        ({"unreadable": 2}, "2 samples of the index could not be read for this report"),
    ],
)
def test_findings_on_texts(texts: dict[str, Any], message: str) -> None:
    warnings = found(texts=texts)
    assert len(warnings) == 1
    assert warnings[0].startswith("some: ")
    assert re.search(message, warnings[0])


def test_no_finding_on_captions_that_a_set_may_lack() -> None:
    index = Index("f", {"some": (ShardEntry("a.tar", 1000, 1, "", ""),)}, {}, fields=SampleFields(needed=False))
    made = Statistics("f", {"some": replace(GOOD, duplicate_captions=979, identical_captions=980)})
    assert collect_findings(index, made, {"some": GOOD_TEXTS}) == []


def test_few_samples() -> None:
    assert found(samples=99) == ["some: only 99 samples; metrics on so few samples are noisy."]


def test_an_unreadable_split_gives_one_finding() -> None:
    none = replace(GOOD_LENGTHS, values=[], cut=0, unknown=0)
    texts = {
        "samples": 0,
        "unreadable": 3,
        "web": none,
        "synthetic": none,
        "fragments": {"sub_caption": none},
        "sentences": np.zeros(0, np.int64),
    }
    assert found(texts=texts) == ["some: 3 samples of the index could not be read for this report."]
