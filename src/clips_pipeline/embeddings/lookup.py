"""Look-ups by key for filters: the similarity of image and caption, and the keys to leave out.

Keys are kept as 64-bit hashes, so that a million keys take 12 MB. Each process loads a file once.
"""

import hashlib
import os
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.table import EmbeddingTable


class KeyTable:
    """Keys with a number each.

    Args:
        hashes: hashes of the keys, in any order.
        values: the number of each key; of equal keys, the first one counts.
    """

    def __init__(self, hashes: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._values = hashes[order], values[order]

    def find(self, key: str) -> float | None:
        """Return the number of a key, or None."""
        wanted = hash_key(key)
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            return None
        return float(self._values[at])


def hash_key(key: str) -> np.uint64:
    """Return 64 bits of a key; keys with lone surrogates have one too."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


@lru_cache(maxsize=4)
def load_scores(path: str) -> KeyTable:
    """Return the cosine similarity of each image with the most similar of its captions, by key.

    Args:
        path: a table of embeddings, in which the captions of an image follow it, as `embed` writes it.

    Raises:
        ConfigError: it is no such table, or has no image with a caption.
    """
    table = EmbeddingTable(path)
    hashes: list[np.uint64] = []
    values: list[float] = []
    key, image_E = "", np.zeros(table.facts.embedding_size, np.float32)
    scored = False
    for rows in table.blocks():
        vectors = np.asarray(rows.vectors, np.float32)
        for place, (one, kind) in enumerate(zip(rows.keys, rows.kinds, strict=True)):
            if kind == "image":
                key, image_E, scored = one, vectors[place], False
            elif one == key:
                score = float(image_E @ vectors[place])
                if scored:
                    values[-1] = max(values[-1], score)
                else:
                    hashes.append(hash_key(key))
                    values.append(score)
                    scored = True
    if not values:
        raise ConfigError(f"{path}: no image is followed by a caption; embed with embed.texts: web, synthetic or human")
    return KeyTable(np.array(hashes, np.uint64), np.array(values, np.float32))


@lru_cache(maxsize=4)
def load_keys(path: str) -> KeyTable:
    """Return the keys of the column `key` of a Parquet file, each with 1.

    Raises:
        ConfigError: it is no Parquet file, or has no text column `key`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if "key" not in file.schema_arrow.names or not pa.types.is_string(file.schema_arrow.field("key").type):
                raise ConfigError(f"{path}: no text column 'key'; give a file of `clips-pipeline dedup`")
            batches = file.iter_batches(columns=["key"])
            hashes = [hash_key(key) for batch in batches for key in batch.column(0).to_pylist() if key is not None]
    except (pa.ArrowException, OSError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ConfigError(
            f"{path}: cannot be read as Parquet ({reason}); give a file of `clips-pipeline dedup`"
        ) from None
    return KeyTable(np.array(hashes, np.uint64), np.ones(len(hashes), np.float32))
