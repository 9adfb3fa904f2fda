"""Cache of remote shards: one download for all processes, verified, bounded; and training batches from it."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.servers import Fault, HttpServer, http_server, wait_for
from tests.unit.data.samples import LengthReader, record, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.shards import records, sample_offsets
from clips_pipeline.data.shards.index import Index, ShardEntry
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError

QUICK = StorageConfig(retries=1, back_off_s=0.01, timeout_s=2.0)
COUNT = 6


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[HttpServer, list[ShardEntry]]]:
    """Six shards of four samples on an HTTP server, and an index of them under `index`."""
    folder = tmp_path / "served"
    folder.mkdir()
    (tmp_path / "index").mkdir()
    with http_server(folder) as http:
        entries = [
            write_shard(folder / f"{n}.tar", [record(4 * n + i) for i in range(4)], f"{http.url}/{n}.tar")
            for n in range(COUNT)
        ]
        Index("f", {"train": tuple(entries)}, {"train": {}}).save(tmp_path / "index")
        sample_offsets.save(tmp_path / "index", (_spans(folder / f"{n}.tar") for n in range(COUNT)))
        yield http, entries


def _spans(tar: Path) -> bytes:
    with TarFile(tar) as opened:
        return sample_offsets.to_bytes(opened.spans)


def _cache(tmp_path: Path, **changes: Any) -> ShardCache:
    return ShardCache(tmp_path / "cache", Storage(replace(QUICK, **changes)))


def test_a_shard_is_copied_once(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    http, entries = served
    cache = pickle.loads(pickle.dumps(_cache(tmp_path)))  # noqa: S301
    for _ in range(3):
        assert cache.local_copy(entries[0]).read_bytes() == (http.folder / "0.tar").read_bytes()
    assert _cache(tmp_path).local_copy(entries[0]).exists()
    assert http.gets("0.tar") == 1


def _local(cache: ShardCache, shard: ShardEntry, barrier: Any) -> None:
    barrier.wait()
    assert cache.local_copy(shard).stat().st_size == shard.bytes


def test_many_processes_download_a_shard_once(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    http, entries = served
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_local, args=(_cache(tmp_path), entries[1], barrier)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60.0)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert http.gets("1.tar") == 1


def test_prefetched_shards_are_not_downloaded_again(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path
) -> None:
    http, entries = served
    cache = _cache(tmp_path)
    cache.prefetch(entries[:3])
    cache.prefetch(entries[:3])
    wait_for(lambda: not cache._queued)
    assert [cache.local_copy(shard).exists() for shard in entries[:3]] == [True] * 3
    assert [http.gets(f"{n}.tar") for n in range(4)] == [1, 1, 1, 0]


def test_least_recently_used_copies_are_deleted(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    http, entries = served
    cache = _cache(tmp_path, cache_gib=2.5 * entries[0].bytes / 2**30)
    first = cache.local_copy(entries[0])
    with first.open("rb") as still_open:
        cache.local_copy(entries[1])
        time.sleep(0.01)
        cache.local_copy(entries[0])
        cache.local_copy(entries[2])
        assert [cache._copy(shard).exists() for shard in entries[:3]] == [True, False, True]
        cache.local_copy(entries[3])
        cache.local_copy(entries[4])
        assert not first.exists()
        assert still_open.read() == (http.folder / "0.tar").read_bytes()


def test_file_that_differs_from_the_index_is_refused(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path
) -> None:
    http, entries = served
    content = bytearray((http.folder / "0.tar").read_bytes())
    content[1000] ^= 1
    (http.folder / "0.tar").write_bytes(content)
    # A server that ends the response early and announces the short length.
    http.faults["1.tar"] = Fault("short", after=1024)
    for number, problem in ((0, "sha256"), (1, "1024 bytes, the index says")):
        with pytest.raises(StorageError, match=rf"{number}\.tar: is not the shard of the index .*{problem}"):
            _cache(tmp_path).local_copy(entries[number])
        assert http.gets(f"{number}.tar") == 2
    http.faults["1.tar"] = Fault("short", after=1024, times=1)
    assert _cache(tmp_path).local_copy(entries[1]).stat().st_size == entries[1].bytes
    assert http.gets("1.tar") == 4
    assert [file.name for file in (tmp_path / "cache").glob("??/*.tar")] == [f"{entries[1].sha256}.tar"]


def test_copies_are_deleted_on_a_disk_that_fills_up(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, entries = served
    cache = _cache(tmp_path)
    for shard in entries[:3]:
        cache.local_copy(shard)
        time.sleep(0.01)
    monkeypatch.setattr("clips_pipeline.data.shards.shard_cache._free_bytes", lambda folder: entries[0].bytes // 2)
    cache.local_copy(entries[3])
    assert [cache._copy(shard).exists() for shard in entries[:4]] == [False, True, True, True]


class FullDiskStorage(Storage):
    """Downloads to a device that is always full."""

    def _copy(self, address: str, target: Path) -> None:
        super()._copy(address, Path("/dev/full"))


def test_full_disk_is_an_error_even_if_shards_may_be_skipped(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path
) -> None:
    _, entries = served
    cache = ShardCache(tmp_path / "cache", FullDiskStorage(replace(QUICK, unreachable="skip")))
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cache: the disk is full; make room, or lower storage\.cache_gib"):
            cache.local_copy(entries[0])
    assert _cache(tmp_path).local_copy(entries[0]).exists()


def _fail(cache: ShardCache, shard: ShardEntry, barrier: Any) -> None:
    barrier.wait()
    with pytest.raises(BadSampleError, match="503"):
        cache.local_copy(shard)


def test_processes_that_wait_share_a_failure(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    http, entries = served
    http.faults["4.tar"] = Fault("503")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    cache = _cache(tmp_path, unreachable="skip", retries=3, back_off_s=0.3)
    workers = [context.Process(target=_fail, args=(cache, entries[4], barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60.0)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert http.gets("4.tar") == 4
    http.faults.clear()
    assert _cache(tmp_path).local_copy(entries[4]).exists()
    assert not list((tmp_path / "cache").glob("??/*.failed"))


def test_copy_deleted_before_it_is_read_loses_no_sample(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path
) -> None:
    class EvictingCache(ShardCache):
        """Deletes a copy right after its download, for a number of times, like another process that needs the space."""

        left = 3

        def local_copy(self, shard: ShardEntry) -> Path:
            copy = super().local_copy(shard)
            if self.left:
                self.left -= 1
                copy.unlink()
            return copy

    cache = EvictingCache(tmp_path / "cache", Storage(QUICK))
    assert list(eval_samples(tmp_path / "index", "train", remote=cache)) == [record(n) for n in range(4 * COUNT)]
    cache.left = 1000
    for copy in (tmp_path / "cache").glob("??/*.tar"):
        copy.unlink()
    with pytest.raises(ConfigError, match=r"raise storage\.cache_gib"):
        list(eval_samples(tmp_path / "index", "train", remote=cache))


def test_a_fork_has_threads_of_its_own(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    _, entries = served
    cache = _cache(tmp_path)
    cache.prefetch(entries[:2])
    wait_for(lambda: not cache._queued)
    worker = multiprocessing.get_context("fork").Process(target=_prefetch, args=(cache, entries[2:4]))
    worker.start()
    worker.join(60.0)
    assert worker.exitcode == 0
    assert all(cache._copy(shard).exists() for shard in entries[:4])


def _prefetch(cache: ShardCache, shards: list[ShardEntry]) -> None:
    cache.prefetch(shards)
    wait_for(lambda: not cache._queued)


def _hang(cache: ShardCache, shard: ShardEntry) -> None:
    cache.local_copy(shard)


def test_after_a_kill_in_a_download_the_next_process_starts_over(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path
) -> None:
    http, entries = served
    http.faults["2.tar"] = Fault("hang", times=1)
    worker = multiprocessing.get_context("fork").Process(
        target=_hang, args=(_cache(tmp_path, timeout_s=60.0), entries[2])
    )
    worker.start()
    left = tmp_path / "cache" / entries[2].sha256[:2] / f"{entries[2].sha256}.new"
    wait_for(lambda: http.gets("2.tar") == 1)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    left.write_bytes(b"half")
    assert _cache(tmp_path).local_copy(entries[2]).stat().st_size == entries[2].bytes
    assert not left.exists()
    left.write_bytes(b"half of a shard that nobody needs again")
    _cache(tmp_path).local_copy(entries[3])
    assert not left.exists()


def _batches(tmp_path: Path, cache: ShardCache, workers: int) -> list[Any]:
    loader = train_loader(
        tmp_path / "index",
        "train",
        LengthReader(),
        ImageConfig(size=8),
        global_batch_size=4,
        workers=workers,
        window_samples=8,
        max_streams=2,
        remote=cache,
    )
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_remote_shards_equals_training_from_local_ones(
    served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path, workers: int
) -> None:
    http, entries = served
    found = _batches(tmp_path, _cache(tmp_path), workers)
    local = [replace(shard, path=str(http.folder / f"{n}.tar")) for n, shard in enumerate(entries)]
    Index("f", {"train": tuple(local)}, {"train": {}}).save(tmp_path / "index")
    wanted = _batches(tmp_path, _cache(tmp_path), 0)
    assert [batch.keys for batch in found] == [batch.keys for batch in wanted]
    assert all(torch.equal(a.images_BCHW, b.images_BCHW) for a, b in zip(found, wanted, strict=True))
    assert [http.gets(f"{n}.tar") for n in range(COUNT)] == [1] * COUNT


def test_evaluation_reads_remote_shards(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    found = list(eval_samples(tmp_path / "index", "train", remote=_cache(tmp_path)))
    assert found == [record(number) for number in range(4 * COUNT)]


def test_missing_shard_is_an_error_or_skipped(served: tuple[HttpServer, list[ShardEntry]], tmp_path: Path) -> None:
    http, entries = served
    (http.folder / "3.tar").unlink()
    with pytest.raises(StorageError, match=r"3\.tar: one attempt"):
        _batches(tmp_path, _cache(tmp_path), 0)
    asked = http.gets("3.tar")
    cache = _cache(tmp_path, unreachable="skip")
    batches = _batches(tmp_path, cache, 0)
    assert all(len(set(batch.keys)) == 4 for batch in batches)
    counts = [batch.skipped.get(records.UNREADABLE_SHARD, 0) for batch in batches]
    assert sum(counts) >= 1
    # Once by the prefetch and once when needed, and then never again.
    assert http.gets("3.tar") - asked <= 2
    with pytest.raises(BadSampleError, match="unreadable_shard"):
        cache.local_copy(entries[3])
