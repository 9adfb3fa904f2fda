"""Search in a table of embeddings: exact by default, in blocks, so that memory for scores is bounded.

Shapes: N rows of the table, M queries, E embedding, K results.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.table import EmbeddingTable, Kind, Rows

Engine = Literal["exact", "faiss"]

Scores = NDArray[np.float32]
Numbers = NDArray[np.int64]

_BLOCK_ROWS = 16_384
_BLOCK_QUERIES = 1_024  # with _BLOCK_ROWS: 64 MiB of scores


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes:
        key: key of the sample.
        kind: `image` or `text`.
        score: cosine similarity to the query.
        source: shard or image file of the sample; None if unknown.
        text: caption of a text row; None for an image.
    """

    key: str
    kind: Kind
    score: float
    source: str | None = None
    text: str | None = None


class VectorIndex(Protocol):
    """What an engine does."""

    def search(self, queries_ME: NDArray[np.floating[Any]], k: int) -> tuple[Scores, Numbers]:
        """Return the best scores (M, K), highest first, and the numbers (M, K) of their rows; K is at most k and N.

        Rows with equal scores are in the order of the table. An approximate engine that finds fewer rows gives the number -1.
        """
        ...


class ExactIndex:
    """All similarities by matrix product, in blocks.

    Args:
        vectors_NE: rows; float32 takes twice the memory of float16 and is several times as fast.
    """

    def __init__(self, vectors_NE: NDArray[np.floating[Any]]) -> None:
        self.vectors_NE = vectors_NE

    def search(self, queries_ME: NDArray[np.floating[Any]], k: int) -> tuple[Scores, Numbers]:
        """See `VectorIndex`."""
        blocks = (
            self.vectors_NE[low : low + _BLOCK_ROWS] for low in range(0, max(len(self.vectors_NE), 1), _BLOCK_ROWS)
        )
        return search_blocks(queries_ME, blocks, k)


def search_blocks(
    queries_ME: NDArray[np.floating[Any]], blocks: Iterable[NDArray[np.floating[Any]]], k: int
) -> tuple[Scores, Numbers]:
    """Return what `VectorIndex.search` does for rows that come in blocks. Memory does not grow with their number.

    Args:
        queries_ME: queries with unit norm.
        blocks: blocks (n, E) of the rows.
        k: results per query.
    """
    running = _RunningBest(queries_ME, k)
    for block in blocks:
        running.add(block)
    return running.scores, running.numbers


class _RunningBest:
    """The best rows so far, by query.

    Args:
        queries_ME: queries with unit norm.
        k: results per query.
    """

    def __init__(self, queries_ME: NDArray[np.floating[Any]], k: int) -> None:
        self._queries_ME, self._k, self._seen = np.asarray(queries_ME, np.float32), k, 0
        self.scores: Scores = np.zeros((len(self._queries_ME), 0), np.float32)
        self.numbers: Numbers = np.zeros((len(self._queries_ME), 0), np.int64)

    def add(self, block: NDArray[np.floating[Any]]) -> None:
        """Add the next rows."""
        rows_nE = np.asarray(block, np.float32)
        found: list[tuple[Scores, Numbers]] = []
        for low in range(0, len(self._queries_ME), _BLOCK_QUERIES):
            part = slice(low, low + _BLOCK_QUERIES)
            scores_mn: Scores = (self._queries_ME[part] @ rows_nE.T).astype(np.float32, copy=False)
            found.append(_merge(self.scores[part], self.numbers[part], scores_mn, self._seen, self._k))
        if found:
            self.scores = np.concatenate([scores for scores, _ in found])
            self.numbers = np.concatenate([numbers for _, numbers in found])
        self._seen += len(rows_nE)


def _merge(best: Scores, numbers: Numbers, scores_Mn: Scores, first: int, k: int) -> tuple[Scores, Numbers]:
    """Return the best k of the results so far and of a block whose rows are numbered from `first`."""
    joined = np.concatenate([best, scores_Mn], axis=1)
    rows = np.arange(first, first + scores_Mn.shape[1])
    all_numbers = np.concatenate([numbers, np.broadcast_to(rows, scores_Mn.shape)], axis=1)
    width = min(k, joined.shape[1])
    if width == 0:
        return joined[:, :0], all_numbers[:, :0]
    chosen = np.empty((len(joined), width), np.int64)
    thresholds = np.partition(joined, joined.shape[1] - width, axis=1)[:, -width] if len(joined) else joined[:, 0]
    for row, (scores, threshold) in enumerate(zip(joined, thresholds, strict=True)):
        # Among equal scores at the threshold, the first rows are taken: the result must not depend on the block size.
        places = np.flatnonzero(scores >= threshold)
        chosen[row] = places[np.argsort(-scores[places], kind="stable")][:width]
    return np.take_along_axis(joined, chosen, 1), np.take_along_axis(all_numbers, chosen, 1)


class TableIndex:
    """A table in memory with a search engine.

    Args:
        rows: the rows without need for their vectors.
        engine: search over the vectors of these rows.
        embedding_size: E.
    """

    def __init__(self, rows: Rows, engine: VectorIndex, embedding_size: int) -> None:
        self.rows, self.engine, self.embedding_size = rows, engine, embedding_size

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, queries_ME: NDArray[np.floating[Any]], k: int) -> list[list[Hit]]:
        """Return the k most similar rows of each query, best first.

        Args:
            queries_ME: queries with unit norm; one query (E,) is a batch of one.
            k: results per query; fewer if the table is smaller.

        Raises:
            ValueError: the queries have another size, or k is below 1.
        """
        queries_ME = np.atleast_2d(queries_ME)
        if queries_ME.ndim != 2 or queries_ME.shape[1] != self.embedding_size or k < 1:
            raise ValueError(
                f"queries {queries_ME.shape} and k {k}: expected (M, {self.embedding_size}) and at least 1"
            )
        scores_MK, numbers_MK = self.engine.search(queries_ME, k)
        return [
            [hit_of(self.rows, number, score) for score, number in zip(*pair, strict=True) if number >= 0]
            for pair in zip(scores_MK.tolist(), numbers_MK.tolist(), strict=True)
        ]


def hit_of(rows: Rows, number: int, score: float) -> Hit:
    """Return a row as a result."""
    # Rounded to float16, a vector may be a little longer than 1.
    score = min(1.0, max(-1.0, score))
    return Hit(rows.keys[number], rows.kinds[number], score, rows.sources[number], rows.texts[number])


def load_index(
    path: Path | str, model: str | None, *, engine: Engine = "exact", kind: Kind | None = None
) -> TableIndex:
    """Load a table for many searches.

    Args:
        path: the Parquet file.
        model: digest of the model that makes the queries (`interop.digest.model_digest`); None does not check it.
        engine: `exact`, or `faiss`, which is approximate for large tables.
        kind: only rows of this kind; None for both.

    Raises:
        ConfigError: see `EmbeddingTable`; the vectors are of another model, there are no rows, or faiss is not installed.
    """
    table = EmbeddingTable(path)
    if model is not None:
        table.require_model(model)
    rows = _load_rows(table, kind)
    if not len(rows):
        what = "rows" if kind is None else f"rows of kind {kind!r}"
        raise ConfigError(f"{table.path}: has no {what}; embed more data, or ask for the other kind")
    vectors = np.asarray(rows.vectors, np.float32)
    # Imported only if wanted: an extra.
    if engine == "faiss":
        from clips_pipeline.embeddings.faiss_index import FaissIndex

        return TableIndex(rows, FaissIndex(vectors), table.facts.embedding_size)
    return TableIndex(rows, ExactIndex(vectors), table.facts.embedding_size)


def _load_rows(table: EmbeddingTable, kind: Kind | None) -> Rows:
    keys: list[str] = []
    kinds: list[Kind] = []
    sources: list[str | None] = []
    texts: list[str | None] = []
    vectors: list[NDArray[np.floating[Any]]] = [np.zeros((0, table.facts.embedding_size), np.float16)]
    seen: dict[str, str] = {}  # one text object per source, of which there are few
    for block in table.blocks(kind):
        keys += block.keys
        kinds += block.kinds
        sources += [one if one is None else seen.setdefault(one, one) for one in block.sources]
        texts += block.texts
        vectors.append(block.vectors)
    return Rows(keys, kinds, np.concatenate(vectors), sources, texts)


def search_table(
    path: Path | str,
    queries_ME: NDArray[np.floating[Any]],
    k: int,
    *,
    model: str | None,
    kind: Kind | None = None,
) -> list[list[Hit]]:
    """Search a table once, exactly, without loading it: its vectors are read in blocks.

    Args:
        path: the Parquet file.
        queries_ME: queries with unit norm.
        k: results per query; fewer if the table is smaller.
        model: digest of the model that made the queries; None does not check it.
        kind: only rows of this kind; None for both.

    Raises:
        ConfigError: see `load_index`.
    """
    table = EmbeddingTable(path)
    if model is not None:
        table.require_model(model)
    kept: dict[int, Hit] = {}
    first = 0
    running = _RunningBest(queries_ME, k)
    for rows in table.blocks(kind):
        running.add(rows.vectors)
        wanted = set(running.numbers.ravel().tolist())
        kept = {number: hit for number, hit in kept.items() if number in wanted}
        kept |= {number: hit_of(rows, number - first, 0.0) for number in wanted if number >= first}
        first += len(rows)
    if not first:
        raise ConfigError(f"{table.path}: has no rows{'' if kind is None else f' of kind {kind!r}'}; embed more data")
    pairs = zip(running.scores.tolist(), running.numbers.tolist(), strict=True)
    return [_scored(kept, *pair) for pair in pairs]


def _scored(kept: dict[int, Hit], scores: Sequence[float], numbers: Sequence[int]) -> list[Hit]:
    return [
        replace(hit, score=min(1.0, max(-1.0, score)))
        for score, hit in ((score, kept[number]) for score, number in zip(scores, numbers, strict=True))
    ]
