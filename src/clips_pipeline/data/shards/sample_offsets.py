"""Sample offsets, `spans.bin`: the span of each sample in its tar file, so that reading one needs no other headers.

The file holds two unsigned 32-bit numbers per sample, in blocks of 512 bytes: the block of its first header, and the
block after its last file. Samples are in the order of the index, over all splits; skipped samples have no entry. So
opening a shard takes constant time, and a training that mixes many shards needs no offset tables in memory.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.index import INDEX_FILE, Index
from clips_pipeline.data.shards.tar_file import Spans

SPANS_FILE = "spans.bin"

_NUMBER = np.dtype("<u4")
_BYTES_PER_SAMPLE = 2 * _NUMBER.itemsize


def to_bytes(spans: Spans) -> bytes:
    """Return the bytes of spans (samples, 2) as stored in the file.

    Raises:
        ConfigError: a tar file is larger than 2 TiB.
    """
    if len(spans) and int(spans.max()) > np.iinfo(_NUMBER).max:
        raise ConfigError("a shard is larger than 2 TiB; split it into smaller ones")
    return spans.astype(_NUMBER).tobytes()


def from_bytes(content: bytes) -> Spans:
    """Return spans (samples, 2) from the result of `to_bytes`."""
    return np.frombuffer(content, _NUMBER).reshape(-1, 2).astype(np.int64)


def matches_index(folder: Path, index: Index) -> bool:
    """Return whether the file beside `index` exists and has the size that follows from it."""
    try:
        size = os.stat(folder / SPANS_FILE).st_size
    except FileNotFoundError:
        return False
    return size == _BYTES_PER_SAMPLE * sum(index.split_samples(split) for split in index.splits)


class SplitSpans:
    """Spans of one split, read one shard at a time.

    Args:
        folder: folder of `index.json`.
        index: content of that file.
        split: name of the split.

    Raises:
        ConfigError: the file is missing or belongs to another index.
    """

    def __init__(self, folder: Path, index: Index, split: str) -> None:
        if not matches_index(folder, index):
            raise ConfigError(
                f"{folder / SPANS_FILE}: missing, or does not match {INDEX_FILE}; run `kedro run --pipelines prepare` to make "
                "both again, or restore the data"
            )
        self._file = folder / SPANS_FILE
        names = list(index.splits)
        before = sum(index.split_samples(name) for name in names[: names.index(split)])
        self._first = before + np.cumsum([0, *(shard.samples for shard in index.split(split))])

    def shard_spans(self, shard: int) -> Spans:
        """Return the spans (samples, 2) of shard number `shard`."""
        begin, end = self._first[shard : shard + 2]
        return (
            np.fromfile(self._file, _NUMBER, 2 * (end - begin), offset=begin * _BYTES_PER_SAMPLE)
            .reshape(-1, 2)
            .astype(np.int64)
        )


def save(folder: Path, parts: Iterable[bytes]) -> None:
    """Write the file from results of `to_bytes`, in the order of the index."""
    with (folder / SPANS_FILE).open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
