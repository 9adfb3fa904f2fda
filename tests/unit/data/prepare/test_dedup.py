"""Duplicates across jobs equal those found by a set in memory, need little memory, and are dropped exactly."""

from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.samples import ListSource, image_bytes, read_tree, record

from clips_pipeline.data.prepare import filters
from clips_pipeline.data.prepare.dedup import DuplicateRows, find_duplicates
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.job_files import ROW, JobFiles
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import HISTOGRAM_UNITS, Histogram, load_statistics
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples


@pytest.mark.parametrize("hashes_in_memory", [10, 300, 1_000_000])
def test_duplicates_equal_those_found_by_a_set(tmp_path: Path, hashes_in_memory: int) -> None:
    draws = np.random.default_rng(0)
    (tmp_path / "jobs" / "train").mkdir(parents=True)
    jobs, columns = [], []
    for number in range(600):
        rows = np.zeros(draws.integers(0, 8), ROW)
        # Few values, so that many repeat, spread over all 64 bits, so that every partition gets some.
        rows["image"] = draws.integers(0, 1500, len(rows)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        jobs.append(JobFiles(tmp_path, "train", number))
        jobs[-1].save_rows(rows, ["k"] * len(rows))
        assert len(jobs[-1].load_rows()) == len(rows)
        columns.append(rows["image"].tolist())
    leave_out = [draws.random(len(column)) < 0.2 for column in columns]
    seen: set[int] = set()
    expected = []
    for column, left_out in zip(columns, leave_out, strict=True):
        expected.append([])
        for place, (value, skip) in enumerate(zip(column, left_out, strict=True)):
            if not skip and value in seen:
                expected[-1].append(place)
            elif not skip:
                seen.add(value)
    found = find_duplicates(
        jobs,
        "image",
        tmp_path / "work",
        excluded=lambda job: np.flatnonzero(leave_out[job]),
        hashes_in_memory=hashes_in_memory,
    )
    assert [found.rows_of(job).tolist() for job in range(len(jobs))] == expected
    assert found.total == sum(map(len, expected)) > 100


def test_duplicate_rows_may_be_added_in_any_order(tmp_path: Path) -> None:
    found = DuplicateRows(tmp_path / "found")
    found.add(np.array([300, 2, 300]), np.array([7, 1, 3]))
    found.add(np.array([2, 299]), np.array([0, 5]))
    assert {job: found.rows_of(job).tolist() for job in (300, 2, 1, 299)} == {300: [3, 7], 2: [0, 1], 1: [], 299: [5]}


def test_shards_equal_those_of_a_source_without_duplicates(tmp_path: Path) -> None:
    """Naive version: one pass over the same samples with sets."""
    draws = np.random.default_rng(1)
    parts = []
    for _ in range(4):
        numbers = draws.integers(0, 60, 25).tolist()
        parts.append(
            [
                record(
                    at,
                    key=f"k{draws.integers(0, 80)}",
                    image=image_bytes(number),
                    web_caption=f"web {draws.integers(0, 60)}",
                    captions=(r"left as it is: \xc2\xae",),
                    label=number,
                )
                for at, number in enumerate(numbers)
            ]
        )
    rules = SampleRules(filters=FilterConfig(duplicate_images=True, duplicate_captions=True))
    made = prepare(
        ListSource({"train": list(parts)}),
        tmp_path / "made",
        samples_per_shard=7,
        max_skipped_fraction=1.0,
        rules=rules,
    )
    # One kind of duplicate after the other, each over the remaining samples.
    for value in (lambda r: r.key, lambda r: r.image, lambda r: r.web_caption):
        seen = set()
        for part in parts:
            for one in list(part):
                part.remove(one) if value(one) in seen else seen.add(value(one))
    assert sum(map(len, parts)) < 60
    expected = prepare(ListSource({"train": list(parts)}), tmp_path / "expected", samples_per_shard=7, rules=rules)
    assert [entry.sha256 for entry in made.split("train")] == [entry.sha256 for entry in expected.split("train")]
    assert made.splits == expected.splits
    left = load_statistics(tmp_path / "made").splits["train"]
    assert left.histograms == load_statistics(tmp_path / "expected").splits["train"].histograms
    assert sum(left.skipped.values()) + sum(left.filtered.values()) + left.kept == 100
    assert set(left.filtered) == {filters.DUPLICATE_IMAGE, filters.DUPLICATE_CAPTION}
    assert set(left.skipped) == {records.DUPLICATE_KEY}
    shards = {f"train/{number:05d}.tar" for number in range(len(made.split("train")))}
    assert set(read_tree(tmp_path / "made")) == {"index.json", "spans.bin", "statistics.json"} | shards
    assert (tmp_path / "made" / "spans.bin").read_bytes() == (tmp_path / "expected" / "spans.bin").read_bytes()


def test_histograms_are_those_of_the_samples_in_the_index(tmp_path: Path) -> None:
    items = [record(n, web_caption="wörd " * (n % 5 + 1), image=image_bytes(n, (10 + n, 2000))) for n in range(40)]
    prepare(ListSource({"train": [items[:10], items[10:]]}), tmp_path / "shards")
    found = load_statistics(tmp_path / "shards").splits["train"].histograms
    kept = list(eval_samples(tmp_path / "shards", "train"))
    expected = {
        "image_width": [10 + n for n in range(40)],
        "image_height": [2000] * 40,
        "image_aspect": [(10 + n) * 1000 // 2000 for n in range(40)],
        "image_bytes": [len(one.image) for one in kept],
        "web_characters": [len(one.web_caption) for one in kept],
        "web_words": [len(one.web_caption.split()) for one in kept],
        "synthetic_characters": [len(one.synthetic_caption) for one in kept],
        "synthetic_words": [len(one.synthetic_caption.split()) for one in kept],
    }
    assert found == {name: Histogram.from_values(np.array(values)) for name, values in expected.items()}
    assert set(found) == set(HISTOGRAM_UNITS)
    assert load_statistics(tmp_path / "shards").fingerprint == load_index(tmp_path / "shards").fingerprint
