"""Copies of remote shards on this machine: each downloaded once for all processes, checked, and bounded in size.

A copy is named by the hash of its content in the index, so another version of a shard is another file. Whoever has opened a
copy keeps it, also when it is removed to make room: the system frees the space when the last reader has closed it.
"""

import fcntl
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clips_pipeline.shards import records
from clips_pipeline.shards.index import ShardEntry
from clips_pipeline.shards.records import Skip
from clips_pipeline.shards.storage import Storage, StorageError, shown
from clips_pipeline.shards.tar import BadSampleError

log = logging.getLogger(__name__)

_GIB = 1 << 30
# Per process. More would take the bandwidth from the shard that is waited for.
_THREADS_AHEAD = 2


class ShardCache:
    """A folder of copies, shared by all processes of a machine: `reader.RemoteShards`.

    Args:
        folder: for the copies; made when needed.
        storage: reaches the shards.
    """

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._start()

    def local(self, shard: ShardEntry) -> Path:
        """A whole and checked copy of a shard; waits until it is there.

        Raises:
            StorageError: it cannot be had, is not the one in the index, or the disk is full.
            BadSampleError: likewise where the storage says `unreachable: skip`; this process does not try again.
        """
        if shard.path in self._failed:
            raise BadSampleError(self._failed[shard.path])
        copy = self._copy(shard)
        if not _touch(copy):
            try:
                self._get(shard, copy)
            except StorageError as error:
                if self.storage.config.unreachable == "stop":
                    raise
                log.warning("left out: %s", error)
                self._failed[shard.path] = Skip(records.UNREADABLE_SHARD, shown(shard.path), str(error))
                raise BadSampleError(self._failed[shard.path]) from None
        return copy

    def soon(self, shards: Sequence[ShardEntry]) -> None:
        """Download in the background; what fails now is tried again when it is needed."""
        for shard in shards:
            if shard.path in self._coming or shard.path in self._failed or self._copy(shard).exists():
                continue
            self._coming.add(shard.path)
            self._ahead.put(shard)
            if self._threads < _THREADS_AHEAD:
                self._threads += 1
                # A daemon, so that a process that ends does not wait for what nobody will read.
                threading.Thread(target=self._download_ahead, daemon=True, name="shards-ahead").start()

    def _download_ahead(self) -> None:
        while True:
            shard = self._ahead.get()
            try:
                self._get(shard, self._copy(shard))
            except StorageError as error:
                log.warning("%s", error)
            finally:
                self._coming.discard(shard.path)

    def _start(self) -> None:
        self._ahead: queue.SimpleQueue[ShardEntry] = queue.SimpleQueue()
        self._threads = 0
        self._coming: set[str] = set()
        self._failed: dict[str, Skip] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.storage = state["folder"], state["storage"]
        self._start()

    def _copy(self, shard: ShardEntry) -> Path:
        return self.folder / shard.sha256[:2] / f"{shard.sha256}.tar"

    def _get(self, shard: ShardEntry, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with self._only_one(copy):
            if _touch(copy):
                return
            # The lock is ours: what lies about is of a process that was killed.
            for left in copy.parent.glob(f".{copy.stem}.*"):
                left.unlink(missing_ok=True)
            self._make_room(shard.bytes)
            aside = copy.with_name(f".{copy.stem}.new")
            try:
                for last in (False, True):
                    self.storage.fetch(shard.path, aside)
                    problem = _problem(aside, shard)
                    if problem is None:
                        break
                    if last:
                        raise StorageError(
                            f"{shown(shard.path)}: is not the shard of the index ({problem}); "
                            "run `kedro run --pipelines prepare`, or restore the shard"
                        )
                    log.warning("%s: %s; copied once more", shown(shard.path), problem)
                aside.rename(copy)
            finally:
                aside.unlink(missing_ok=True)

    @contextmanager
    def _only_one(self, copy: Path) -> Iterator[None]:
        """One download of a shard at a time over all processes and threads; the system drops the lock with the process."""
        with copy.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, needed: int) -> None:
        """Remove copies used longest ago until `needed` bytes fit."""
        with (self.folder / "room.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            found = []
            for copy in self.folder.glob("??/*.tar"):
                try:
                    stat = copy.stat()
                except FileNotFoundError:
                    continue
                found.append((stat.st_mtime_ns, stat.st_size, copy))
            room = self.storage.config.cache_gib * _GIB - needed - sum(size for _, size, _ in found)
            for _, size, copy in sorted(found):
                if room >= 0:
                    return
                copy.unlink(missing_ok=True)
                room += size


def _touch(copy: Path) -> bool:
    """Whether the copy is there; marks it as used now. Only whole copies bear this name."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _problem(file: Path, shard: ShardEntry) -> str | None:
    size = file.stat().st_size
    if size != shard.bytes:
        return f"{size} bytes, the index says {shard.bytes}"
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return None if digest == shard.sha256 else f"its sha256 is {digest}, the index says {shard.sha256}"
