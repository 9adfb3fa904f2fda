"""Near-duplicates and look-ups by key."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.embeddings.tables import MODEL, unit_vectors, write

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.lookup import load_keys, load_scores
from clips_pipeline.embeddings.near_duplicates import find_near_duplicates, write_near_duplicates
from clips_pipeline.embeddings.table import EmbeddingTable, Rows


def images(vectors: np.ndarray) -> Rows:
    names = [f"k{n}" for n in range(len(vectors))]
    return Rows(names, ["image"] * len(names), vectors, [None] * len(names), [None] * len(names))


def grouped(count: int) -> np.ndarray:
    """Rows near one of a few directions, some closer than others."""
    draws = np.random.default_rng(1)
    rows = unit_vectors(10)[draws.integers(10, size=count)] + draws.normal(0, 0.05, (count, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def naive(vectors: np.ndarray, threshold: float) -> dict[int, int]:
    """Return for each dropped row the first kept row above the threshold."""
    scores = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    kept: list[int] = []
    dropped = {}
    for row in range(len(vectors)):
        near = [one for one in kept if scores[row, one] > threshold]
        if near:
            dropped[row] = near[0]
        else:
            kept.append(row)
    return dropped


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_the_first_of_a_group_stays_whatever_the_block_size(tmp_path: Path, block: int) -> None:
    vectors = grouped(150)
    table = EmbeddingTable(write(tmp_path / "table.parquet", images(vectors)))
    found = list(find_near_duplicates(table, 0.97, block_rows=block))
    expected = naive(vectors, 0.97)
    assert 20 < len(expected) < 145
    assert [(one.key, one.kept_key) for one in found] == [(f"k{a}", f"k{b}") for a, b in expected.items()]
    assert all(one.similarity > 0.97 for one in found)


def test_a_chain_is_not_followed(tmp_path: Path) -> None:
    """b is near a and c is near b, but not near a: c stays, because b is dropped."""
    angles = np.radians([0, 10, 20])
    vectors = np.zeros((3, 8), np.float16)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    for block in (1, 3):
        table = EmbeddingTable(write(tmp_path / "table.parquet", images(vectors)))
        (found,) = find_near_duplicates(table, 0.97, block_rows=block)
        assert (found.key, found.kept_key) == ("k1", "k0")


def test_the_file_names_key_kept_key_and_similarity(tmp_path: Path) -> None:
    table = write(tmp_path / "table.parquet", images(np.repeat(unit_vectors(3), 2, axis=0)))
    assert write_near_duplicates(table, tmp_path / "out/drop.parquet", 0.99) == (3, 6)
    rows = pq.read_table(tmp_path / "out/drop.parquet").to_pylist()
    assert [(row["key"], row["kept_key"]) for row in rows] == [("k1", "k0"), ("k3", "k2"), ("k5", "k4")]
    assert load_keys(str(tmp_path / "out/drop.parquet")).find("k3") == 1.0
    assert load_keys(str(tmp_path / "out/drop.parquet")).find("k2") is None


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    table = EmbeddingTable(write(tmp_path / "table.parquet", images(unit_vectors(2))))
    with pytest.raises(ConfigError, match="--drop-above: 95 is no cosine"):
        list(find_near_duplicates(table, 95))
    with pytest.raises(ConfigError, match="no rows of kind 'text'"):
        list(find_near_duplicates(table, 0.9, "text"))
    with pytest.raises(ConfigError, match="no image is followed by a caption"):
        load_scores(str(table.path))
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        load_keys(str(tmp_path / "nowhere"))
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="no text column 'key'"):
        load_keys(str(tmp_path / "other.parquet"))


def test_scores_are_those_of_an_image_and_its_best_caption(tmp_path: Path) -> None:
    vectors = unit_vectors(6)
    kinds = ["image", "text", "text", "image", "image", "text"]
    rows = Rows(["a", "a", "a", "b", "c", "c"], kinds, vectors, [None] * 6, [None] * 6)  # type: ignore[arg-type]
    scores = load_scores(str(write(tmp_path / "table.parquet", rows, model=MODEL)))
    assert scores.find("a") == pytest.approx(max(vectors[0] @ vectors[1], vectors[0] @ vectors[2]), abs=2e-3)
    assert scores.find("b") is None
    assert scores.find("c") == pytest.approx(vectors[4] @ vectors[5], abs=2e-3)
    assert scores.find("\ud800") is None
