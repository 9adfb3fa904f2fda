"""The index of the server: nearest rows of a table of embeddings (`kedro run --pipelines embed`)."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.index import Hit, TableIndex, load_index
from clips_pipeline.embeddings.table import Kind
from clips_pipeline.reports.search_results import Pictures


class Neighbors:
    """A table in memory, with an exact index for each kind of row.

    Args:
        path: the Parquet file.
        model: digest of the model that makes the queries.
        pictures: whether small pictures of the rows may be read from the files that the table names.

    Raises:
        ConfigError: there is no such table, it is damaged or empty, or it was made by another model.
    """

    def __init__(self, path: Path, model: str, *, pictures: bool = False) -> None:
        self.pictures = pictures
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


def thumbnails(found: Sequence[Sequence[Hit]]) -> list[list[str | None]]:
    """Return the base64 of a small WebP file for each result; None where its file cannot be read.

    Only image files and shards are opened, and nothing of them is sent but a picture that was encoded again.
    """
    with Pictures() as pictures:
        made = [[pictures.thumbnail(hit) for hit in hits] for hits in found]
    return [[None if one is None else base64.b64encode(one.webp).decode() for one in row] for row in made]
