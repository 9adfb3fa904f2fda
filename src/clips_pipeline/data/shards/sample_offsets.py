"""`spans.bin`: where each sample of the index stands in its tar file, so that one is read without the headers of all others.

Two unsigned numbers of 32 bits for each sample: the block of 512 bytes where its first header stands, and the one after its
last file. The samples of all splits follow one another in the order of the index; those that are left out are not there.
A shard of any size opens at once, and a training that mixes many shards keeps no table of them.
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
    """(samples, 2) as they stand in the file.

    Raises:
        ConfigError: a tar file of more than two TiB.
    """
    if len(spans) and int(spans.max()) > np.iinfo(_NUMBER).max:
        raise ConfigError("a shard has more than two TiB; cut it into smaller ones")
    return spans.astype(_NUMBER).tobytes()


def from_bytes(content: bytes) -> Spans:
    """(samples, 2) out of what `to_bytes` has made."""
    return np.frombuffer(content, _NUMBER).reshape(-1, 2).astype(np.int64)


def matches_index(folder: Path, index: Index) -> bool:
    """Whether the file beside `index` is there and has its size."""
    try:
        size = os.stat(folder / SPANS_FILE).st_size
    except FileNotFoundError:
        return False
    return size == _BYTES_PER_SAMPLE * sum(index.split_samples(split) for split in index.splits)


class SplitSpans:
    """The spans of one split, read shard by shard.

    Args:
        folder: of `index.json`.
        index: of the same.
        split: which samples.

    Raises:
        ConfigError: the file is missing or belongs to another index.
    """

    def __init__(self, folder: Path, index: Index, split: str) -> None:
        if not matches_index(folder, index):
            raise ConfigError(
                f"{folder / SPANS_FILE}: missing, or does not fit {INDEX_FILE}; run `kedro run --pipelines prepare` to make "
                "both anew, or restore the data"
            )
        self._file = folder / SPANS_FILE
        names = list(index.splits)
        before = sum(index.split_samples(name) for name in names[: names.index(split)])
        self._first = before + np.cumsum([0, *(shard.samples for shard in index.split(split))])

    def of(self, shard: int) -> Spans:
        """(samples, 2) of shard number `shard`."""
        begin, end = self._first[shard : shard + 2]
        return (
            np.fromfile(self._file, _NUMBER, 2 * (end - begin), offset=begin * _BYTES_PER_SAMPLE)
            .reshape(-1, 2)
            .astype(np.int64)
        )


def save(folder: Path, parts: Iterable[bytes]) -> None:
    """Write the file from what `to_bytes` made of each shard, or of several, in the order of the index."""
    with (folder / SPANS_FILE).open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
