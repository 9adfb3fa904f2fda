"""Filters of `prepare` whose numbers and keys come from a table: CLIP score, and keys to drop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.samples import ListSource, record
from tests.unit.embeddings.tables import write

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare import run
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.embeddings.near_duplicates import write_near_duplicates
from clips_pipeline.embeddings.table import Rows

SOURCE = ListSource({"train": [[record(n) for n in range(6)]], "test": [[record(9)]]})


def table(folder: Path, scores: list[float]) -> Path:
    """A table in which image and caption of the sample n have the similarity scores[n]; all images are near each other."""
    vectors = np.zeros((2 * len(scores) + 2, 4), np.float32)
    vectors[::2, 0] = 1
    for row, score in enumerate([*scores, 1.0]):
        vectors[2 * row + 1, :2] = score, (1 - score**2) ** 0.5
    keys = [f"k{n:04d}" for n in [*range(len(scores)), 9] for _ in range(2)]
    kinds = ["image", "text"] * (len(scores) + 1)
    return write(folder / "table.parquet", Rows(keys, kinds, vectors, [None] * len(keys), [None] * len(keys)))  # type: ignore[arg-type]


def kept(out: Path) -> list[str]:
    return [sample.key for sample in eval_samples(out, "train")]


def test_samples_of_a_low_score_are_dropped_and_counted(tmp_path: Path) -> None:
    scores = table(tmp_path, [0.1, 0.5, 0.3, 0.9, 0.31])  # none for k0005
    rules = SampleRules(filters=FilterConfig(min_score=0.3, score_table=str(scores)))
    run.prepare(SOURCE, tmp_path / "out", rules=rules)  # type: ignore[arg-type]
    assert kept(tmp_path / "out") == ["k0001", "k0002", "k0003", "k0004"]
    found = load_statistics(tmp_path / "out").splits["train"].filtered
    assert (found["low_score"], found["no_score"]) == (1, 1)


def test_near_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    drop = tmp_path / "drop.parquet"
    write_near_duplicates(table(tmp_path, [1.0] * 3), drop, 0.95)  # k0000 stays, k0001, k0002 and k0009 go
    rules = SampleRules(filters=FilterConfig(drop_table=str(drop)))
    source = ListSource({"train": SOURCE.parts["train"]})
    run.prepare(source, tmp_path / "out", rules=rules)  # type: ignore[arg-type]
    assert kept(tmp_path / "out") == ["k0000", "k0003", "k0004", "k0005"]
    assert load_statistics(tmp_path / "out").splits["train"].filtered["dropped_key"] == 2


def test_another_content_of_the_table_prepares_again_and_none_changes_no_fingerprint(tmp_path: Path) -> None:
    rules = SampleRules(filters=FilterConfig(min_score=0.3, score_table=str(table(tmp_path, [0.9] * 6))))
    first = run.fingerprint(SOURCE, 10, rules)  # type: ignore[arg-type]
    table(tmp_path, [0.1] * 6)
    assert run.fingerprint(SOURCE, 10, rules) != first  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"prepare.filters.score_table: .*No such file"):
        run.fingerprint(SOURCE, 10, replace(rules, filters=replace(rules.filters, score_table="nowhere")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="set min_score too"):
        FilterConfig(score_table="table.parquet")
