"""Local cache of remote shards, bounded in size; each shard is downloaded once for all processes and verified.

A copy is named by the SHA-256 of its content in the index, so another version of a shard is another file. A reader that
has opened a copy can still read it after it was deleted to free space; the system frees the blocks when the last reader
closes it. fsspec's `filecache` bounds the age of copies but not their size, and neither it nor diskcache downloads a
file only once for all ranks.
"""

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.retry import DISK_FULL
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.redact import redact

log = logging.getLogger(__name__)

_GIB = 1 << 30
# Per process. More would take bandwidth from the shard that is needed now.
_PREFETCH_THREADS = 2
# Lock files are shared between shards: a billion samples have 100,000 shards, but need only some thousand locks.
_LOCK_DIGITS = 3


class ShardCache:
    """Folder of copies, shared by all processes of a machine. Can be pickled.

    Args:
        folder: folder of the copies; created when needed.
        storage: access to the shards.
    """

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self._reset()

    def local_copy(self, shard: ShardEntry) -> Path:
        """Return the path of a complete, verified copy of a shard; downloads it if necessary.

        Raises:
            StorageError: the shard cannot be read or does not match the index, or the disk is full.
            BadSampleError: the shard cannot be read and the storage has `unreachable: skip`; this process does not
                retry.
        """
        if shard.path in self._failed:
            raise BadSampleError(self._failed[shard.path])
        copy = self._copy(shard)
        if not _touch(copy):
            try:
                self._download(shard, copy)
            except StorageError as error:
                if not self.storage.should_skip(error):
                    raise
                log.warning("left out: %s", error)
                self._failed[shard.path] = Skip(records.UNREADABLE_SHARD, redact(shard.path), str(error))
                raise BadSampleError(self._failed[shard.path]) from None
        return copy

    def prefetch(self, shards: Sequence[ShardEntry]) -> None:
        """Download shards in the background; a failed download is repeated when the shard is needed."""
        if self._process != os.getpid():
            # Threads do not survive a fork.
            self._reset()
        for shard in shards:
            if shard.path in self._queued or shard.path in self._failed or self._copy(shard).exists():
                continue
            self._queued.add(shard.path)
            self._queue.put(shard)
            if self._threads < _PREFETCH_THREADS:
                self._threads += 1
                # A daemon thread, so that the process can exit without waiting for downloads.
                threading.Thread(target=self._run_prefetch, daemon=True, name="shards-ahead").start()

    def _run_prefetch(self) -> None:
        while True:
            shard = self._queue.get()
            try:
                self._download(shard, self._copy(shard), wait=False)
            except Exception as error:
                # Keep the thread alive; `local_copy` reports the error when the shard is needed.
                log.warning("%s", error)
            finally:
                self._queued.discard(shard.path)

    def _reset(self) -> None:
        self._process = os.getpid()
        self._queue: queue.SimpleQueue[ShardEntry] = queue.SimpleQueue()
        self._threads = 0
        self._queued: set[str] = set()
        self._failed: dict[str, Skip] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.storage = state["folder"], state["storage"]
        self._reset()

    def _copy(self, shard: ShardEntry) -> Path:
        return self.folder / shard.sha256[:2] / f"{shard.sha256}.tar"

    def _download(self, shard: ShardEntry, copy: Path, *, wait: bool = True) -> None:
        """Download the copy; without `wait`, return if another process is downloading it."""
        copy.parent.mkdir(parents=True, exist_ok=True)
        requested_ns = time.time_ns()
        with self._lock(shard.sha256[:_LOCK_DIGITS], wait) as locked:
            if not locked or _touch(copy):
                return
            failure = copy.with_suffix(".failed")
            if _mtime_ns(failure) >= requested_ns:
                # Another process made all attempts while this one waited for the lock.
                raise StorageError(failure.read_text(encoding="utf-8"))
            temporary = copy.with_suffix(".new")
            try:
                self._free_space(shard.bytes)
                self._fetch(shard, temporary)
                temporary.rename(copy)
                failure.unlink(missing_ok=True)
            except StorageError as error:
                if error.errno not in DISK_FULL:
                    failure.write_text(str(error), encoding="utf-8")
                raise
            finally:
                temporary.unlink(missing_ok=True)
            # Other downloads may have finished at the same time.
            self._free_space(0, keep=copy)

    def _fetch(self, shard: ShardEntry, temporary: Path) -> None:
        for last in (False, True):
            try:
                self.storage.fetch(shard.path, temporary)
            except StorageError as error:
                if error.errno in DISK_FULL:
                    error.args = (f"{self.folder}: the disk is full; make room, or lower storage.cache_gib ({error})",)
                raise
            problem = _find_problem(temporary, shard)
            if problem is None:
                return
            if last:
                raise StorageError(
                    f"{shard.path}: is not the shard of the index ({problem}); "
                    "run `kedro run --pipelines prepare`, or restore the shard"
                )
            log.warning("%s: %s; downloading it again", redact(shard.path), problem)

    @contextmanager
    def _lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Yield True with a lock across processes and threads; without `wait`, yield False if it is taken."""
        file = self.folder / "locks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(file, blocking=wait):
                yield True
        except Timeout:
            yield False

    def _free_space(self, needed: int, keep: Path | None = None) -> None:
        """Delete the least recently used copies until `needed` bytes fit into the cache and onto the disk."""
        with self._lock("room"):
            self._remove_partial_copies()
            found = []
            for copy in self.folder.glob("??/*.tar"):
                try:
                    stat = copy.stat()
                except FileNotFoundError:
                    continue
                found.append((stat.st_mtime_ns, stat.st_size, copy))
            bound = self.storage.config.cache_gib * _GIB - sum(size for _, size, _ in found)
            room = min(bound, _free_bytes(self.folder)) - needed
            for _, size, copy in sorted(found):
                if room >= 0:
                    return
                if copy != keep:
                    copy.unlink(missing_ok=True)
                    room += size

    def _remove_partial_copies(self) -> None:
        """Delete partial downloads of killed processes; nobody holds their locks."""
        for temporary in self.folder.glob("??/*.new"):
            with self._lock(temporary.name[:_LOCK_DIGITS], wait=False) as locked:
                if locked:
                    temporary.unlink(missing_ok=True)


def _touch(copy: Path) -> bool:
    """Mark the copy as used now and return whether it exists. Only complete copies have this name."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _mtime_ns(file: Path) -> int:
    """Return the modification time in nanoseconds, as `time.time_ns`; 0 if the file does not exist."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _find_problem(file: Path, shard: ShardEntry) -> str | None:
    size = file.stat().st_size
    if size != shard.bytes:
        return f"{size} bytes, the index says {shard.bytes}"
    digest = file_sha256(file)
    return None if digest == shard.sha256 else f"its sha256 is {digest}, the index says {shard.sha256}"
