"""Search with faiss, an extra, for tables of more than about a million rows.

Below `FLAT_ROWS` rows the search is exact. Above, rows are grouped around centers (an inverted file), and only the groups
nearest to the query are searched: approximate, and vectors stay float16.
"""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.index import Numbers, Scores

FLAT_ROWS = 100_000
_TRAINING_ROWS_PER_CENTER = 64
_PROBED_FRACTION = 0.05  # of the groups


class FaissIndex:
    """An index of faiss over rows with unit norm.

    Args:
        vectors_NE: rows.
        flat_rows: up to so many rows the search is exact.

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, vectors_NE: NDArray[np.floating[Any]], *, flat_rows: int = FLAT_ROWS) -> None:
        faiss = _import_faiss()
        vectors = np.ascontiguousarray(vectors_NE, np.float32)
        count, size = vectors.shape
        if count <= flat_rows:
            self._index = faiss.IndexFlatIP(size)
        else:
            centers = max(1, min(int(4 * math.sqrt(count)), count // 39))  # faiss warns below 39 rows per center
            self._index = faiss.IndexIVFScalarQuantizer(
                faiss.IndexFlatIP(size), size, centers, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
            draws = np.random.default_rng(0)
            some = draws.choice(count, min(count, centers * _TRAINING_ROWS_PER_CENTER), replace=False)
            self._index.train(vectors[np.sort(some)])
            self._index.nprobe = max(8, math.ceil(centers * _PROBED_FRACTION))
        self._index.add(vectors)

    def search(self, queries_ME: NDArray[np.floating[Any]], k: int) -> tuple[Scores, Numbers]:
        """See `index.VectorIndex`. With groups, a query may miss a few of the best rows."""
        wanted = min(k, int(self._index.ntotal))
        scores, numbers = self._index.search(np.ascontiguousarray(queries_ME, np.float32), wanted)
        return scores, numbers


def _import_faiss() -> Any:
    try:
        # Its SWIG types have no `__module__`, which Python 3.11 and later warn of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError:
        raise ConfigError(
            "faiss: not installed; install clips-pipeline[faiss], or search without --engine faiss (exact)"
        ) from None
    return faiss
