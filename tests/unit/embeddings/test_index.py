"""Search: equal to sorting all similarities, in blocks of any size, also from disk and by faiss."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.embeddings.tables import MODEL, SIZE, make_rows, unit_vectors, write

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings import index
from clips_pipeline.embeddings.faiss_index import FaissIndex
from clips_pipeline.embeddings.index import ExactIndex, load_index, search_blocks, search_table


def naive(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("k", [1, 7, 500])
@pytest.mark.parametrize("block", [1, 13, 200, 1000])
def test_blocks_of_any_size_find_what_sorting_finds(block: int, k: int) -> None:
    vectors, queries = unit_vectors(200), unit_vectors(5, seed=1)
    scores, numbers = search_blocks(queries, (vectors[low : low + block] for low in range(0, 200, block)), k)
    assert np.array_equal(numbers, naive(queries, vectors, k))
    assert np.allclose(scores, np.take_along_axis(queries @ vectors.T, numbers, 1), atol=1e-6)


def test_equal_scores_come_in_the_order_of_the_table() -> None:
    vectors = np.repeat(np.eye(SIZE, dtype=np.float32)[:2], 50, axis=0)  # only two different vectors
    for block in (1, 7, 100):
        _, numbers = search_blocks(vectors[:1], (vectors[low : low + block] for low in range(0, 100, block)), 60)
        assert numbers[0].tolist() == list(range(60))


def test_memory_for_scores_does_not_grow_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    merge = index._merge

    def watched(best: Any, numbers: Any, scores: Any, first: int, k: int) -> Any:
        sizes.append(scores.size)
        return merge(best, numbers, scores, first, k)

    monkeypatch.setattr(index, "_merge", watched)
    monkeypatch.setattr(index, "_BLOCK_QUERIES", 16)
    monkeypatch.setattr(index, "_BLOCK_ROWS", 100)
    queries = unit_vectors(40)
    for count in (1_000, 2_000):
        sizes.clear()
        ExactIndex(np.zeros((count, SIZE), np.float16)).search(queries, 5)
        assert len(sizes) == count // 100 * 3
        assert max(sizes) == 16 * 100


@pytest.mark.parametrize("kind", [None, "image", "text"])
def test_a_table_on_disk_and_in_memory_give_the_same_results(tmp_path: Path, kind: str | None) -> None:
    path = write(tmp_path / "table.parquet", make_rows(90))
    queries = unit_vectors(4, seed=2)
    from_disk = search_table(path, queries, 6, model=MODEL, kind=kind)  # type: ignore[arg-type]
    index = load_index(path, MODEL, kind=kind)  # type: ignore[arg-type]
    in_memory = index.search(queries, 6)
    assert [[hit.key for hit in hits] for hits in from_disk] == [[hit.key for hit in hits] for hits in in_memory]
    assert {hit.kind for hits in from_disk for hit in hits} == ({kind} if kind else {"image", "text"})
    for hit in from_disk[0]:
        assert hit.text == (f"caption {int(hit.key[-5:])}" if hit.kind == "text" else None)
    assert len(index.search(queries[0], 1000)[0]) == len(index)


def test_what_does_not_fit_is_one_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet", make_rows(2))  # images only
    with pytest.raises(ConfigError, match="of the model"):
        load_index(path, "c" * 64)
    with pytest.raises(ConfigError, match="of the model"):
        search_table(path, unit_vectors(1), 1, model="c" * 64)
    with pytest.raises(ConfigError, match="no rows of kind 'text'"):
        load_index(path, MODEL, kind="text")
    with pytest.raises(ConfigError, match="no rows of kind 'text'"):
        search_table(path, unit_vectors(1), 1, model=MODEL, kind="text")
    index = load_index(path, MODEL)
    with pytest.raises(ValueError, match="expected"):
        index.search(unit_vectors(1, SIZE + 1), 1)
    with pytest.raises(ValueError, match="expected"):
        index.search(unit_vectors(1), 0)


def test_faiss_is_exact_for_small_tables(tmp_path: Path) -> None:
    path, queries = write(tmp_path / "table.parquet", make_rows(300)), unit_vectors(5, seed=3)
    exact, found = (load_index(path, MODEL, engine=engine).search(queries, 10) for engine in ("exact", "faiss"))  # type: ignore[arg-type]
    assert [[hit.key for hit in hits] for hits in found] == [[hit.key for hit in hits] for hits in exact]
    assert np.allclose([h.score for h in found[0]], [h.score for h in exact[0]], atol=1e-5)


def test_faiss_is_nearly_exact_for_large_tables() -> None:
    centers = unit_vectors(50, 16, seed=4)
    vectors = np.repeat(centers, 100, axis=0) + np.random.default_rng(5).normal(0, 0.05, (5000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[::100]
    _, found = FaissIndex(vectors, flat_rows=100).search(queries, 10)
    wanted = naive(queries, vectors, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]) > 0.9


def test_without_faiss_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"install clips-pipeline\[faiss\]"):
        FaissIndex(unit_vectors(2))
