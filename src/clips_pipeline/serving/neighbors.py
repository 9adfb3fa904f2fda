"""The index of the server: nearest rows of a table of embeddings (`kedro run --pipelines embed`)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.index import Hit, TableIndex, load_index
from clips_pipeline.embeddings.table import Kind


class Neighbors:
    """A table in memory, with an exact index for each kind of row.

    Args:
        path: the Parquet file.
        model: digest of the model that makes the queries.

    Raises:
        ConfigError: there is no such table, it is damaged or empty, or it was made by another model.
    """

    def __init__(self, path: Path, model: str) -> None:
        self._by_kind: dict[Kind, TableIndex] = {}
        errors: list[ConfigError] = []
        for kind in ("image", "text"):
            try:
                self._by_kind[kind] = load_index(path, model, kind=kind)
            except ConfigError as error:  # a table may have rows of one kind only
                errors.append(error)
        if not self._by_kind:
            raise errors[0]

    def __len__(self) -> int:
        return sum(len(index) for index in self._by_kind.values())

    def search(self, queries_ME: NDArray[np.float32], k: int, kind: Kind | None = None) -> list[list[Hit]]:
        """Return the k nearest rows of each query, best first; none if there are no rows of the kind.

        Args:
            queries_ME: queries of length one.
            k: results of each query.
            kind: only rows of this kind; None for both.
        """
        found: list[list[Hit]] = [[] for _ in queries_ME]
        for each, index in self._by_kind.items():
            if kind in (None, each):
                found = [[*old, *new] for old, new in zip(found, index.search(queries_ME, k), strict=True)]
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in found]
