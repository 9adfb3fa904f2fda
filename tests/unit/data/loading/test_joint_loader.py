"""Loader workers that make each batch together: what comes from them, and what happens when one ends or fails."""

import copy
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.loading.loaders import (
    BATCH,
    IMAGES,
    are_same,
    make_loader,
    run_epoch,
)
from tests.unit.data.samples import LengthReader
from torch.utils.data import get_worker_info

from clips_pipeline.data.images.color_batch import change_colors
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.batch import BatchPart, ClipsBatch
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.models.sizes import SIZES


@pytest.mark.parametrize("workers", [0, 2])
def test_the_device_may_change_the_colors(shards: Path, workers: int) -> None:
    """Batches then have the changes, which depend on seed, epoch and key alone; the pixels are those of the loader."""
    images = ImageConfig(size=8, color_jitter=0.8, grayscale_probability=0.3)
    options: Any = {"global_batch_size": BATCH, "seed": 3, "workers": workers}
    usual, later = (
        run_epoch(train_loader(shards, "train", LengthReader(), images, colors_later=colors_later, **options), epoch=1)
        for colors_later in (False, True)
    )
    for mine, other in zip(usual, later, strict=True):
        assert mine.colors_B9 is None
        assert mine.keys == other.keys
        assert other.colors_B9 is not None
        assert not torch.equal(other.images_BCHW, mine.images_BCHW)
        changed = change_colors(other.images_BCHW, other.colors_B9)
        assert (changed.int() - mine.images_BCHW.int()).abs().max() <= 1
        moved = other.to("meta").colors_B9
        assert moved is not None
        assert moved.device.type == "meta"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_layout_of_a_batch_comes_with_it(shards: Path, workers: int, chunk: int | None) -> None:
    """`to` moves it, and a copy of the batch, which Composer makes, is the batch itself."""
    named = SIZES["tiny"]
    config = replace(named, text=replace(named.text, padding="mask", context_length=2))
    layout = partial(step_layout, config, chunk=chunk)
    for batch in run_epoch(make_loader(shards, workers=workers, layout=layout)):
        wanted = layout(batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT)
        assert batch.layout is not None
        assert batch.layout.sizes == wanted.sizes
        assert torch.equal(batch.layout.numbers, wanted.numbers)
        assert copy.deepcopy(batch) is batch
        moved = batch.to("meta").layout
        assert moved is not None
        assert moved.numbers.device.type == "meta"


def test_more_workers_than_samples(shards: Path) -> None:
    loader = make_loader(shards, global_batch_size=2, workers=3)
    assert loader.workers == 2
    assert are_same(run_epoch(loader), run_epoch(make_loader(shards, global_batch_size=2)))


def test_global_random_state_is_unchanged(shards: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    run_epoch(make_loader(shards, workers=1))
    run_epoch(make_loader(shards))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_workers_write_images_where_the_trainer_reads_them(shards: Path) -> None:
    """No copy is made as long as the trainer lets its batches go; if it holds all, their images stay as they are."""
    wanted = run_epoch(make_loader(shards, global_batch_size=4))
    loader = make_loader(shards, global_batch_size=4, workers=2, prefetch_batches=1)
    addresses = []
    for batch, whole in zip(loader, wanted, strict=True):
        addresses.append(batch.images_BCHW.data_ptr())
        assert torch.equal(batch.images_BCHW, whole.images_BCHW)
    assert len(addresses) == 11
    assert len(set(addresses)) <= 3
    loader.dataset.set_epoch(0)
    held = list(loader)
    assert len({batch.images_BCHW.data_ptr() for batch in held}) == 11
    assert are_same(held, wanted)


class _WorkerReader(LengthReader):
    """The first id of a web caption is the number of the worker that read it."""

    def read(self, *arguments: Any, **options: Any) -> Any:
        worker = get_worker_info()
        rows = super().read(*arguments, **options)
        return rows._replace(web=[-1 if worker is None else worker.id, *rows.web[1:]])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_workers_make_each_batch_together(shards: Path, workers: int) -> None:
    for batch in train_loader(shards, "train", _WorkerReader(), IMAGES, global_batch_size=BATCH, workers=workers):
        assert batch.web_ids_BL[:, 0].tolist() == [row % workers for row in range(BATCH)]


def test_a_loader_for_a_gpu_copies_in_a_thread(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU, the copy is an ordinary one."""
    threads, gpus = set(), []

    def pin_memory(batch: ClipsBatch) -> ClipsBatch:
        threads.add(threading.current_thread())
        return replace(batch, images_BCHW=batch.images_BCHW.clone())

    monkeypatch.setattr(ClipsBatch, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr(torch.cuda, "set_device", gpus.append)
    wanted = run_epoch(make_loader(shards), 1)
    before = torch.get_num_threads()
    assert are_same(run_epoch(make_loader(shards, workers=2, for_gpu=True), 1), wanted)
    assert gpus == [5]
    assert threading.main_thread() not in threads
    assert torch.get_num_threads() == before


class _Unsendable(LengthReader):
    """Makes rows that no process can send."""

    def read(self, *arguments: Any, **options: Any) -> Any:
        BatchPart.__reduce_ex__ = _refuse  # type: ignore[assignment, method-assign]
        return super().read(*arguments, **options)


def _refuse(part: BatchPart, protocol: int) -> Any:
    raise OSError(24, "Too many open files")


def test_rows_that_cannot_be_sent_end_the_loader(shards: Path) -> None:
    """Python would drop them, and the trainer would wait for them for ever."""
    loader = train_loader(shards, "train", _Unsendable(), IMAGES, global_batch_size=BATCH, workers=1)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid\(s\) \d+\) exited unexpectedly"):
        next(iter(loader))


class _LongReader(LengthReader):
    """Makes rows that do not fit into the buffer of a pipe."""

    def read(self, *arguments: Any, **options: Any) -> Any:
        row = list(range(30_000))
        return super().read(*arguments, **options)._replace(web=row, fragment=row, target=row)


@pytest.mark.parametrize("for_gpu", [False, True])
def test_the_death_of_a_worker_ends_the_loader(shards: Path, monkeypatch: pytest.MonkeyPatch, *, for_gpu: bool) -> None:
    """Also while it sends, when it has the lock of the queue and a part of its rows has arrived."""
    monkeypatch.setattr(ClipsBatch, "pin_memory", lambda batch: batch)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    options: dict[str, Any] = {"global_batch_size": BATCH, "workers": 2, "for_gpu": for_gpu}
    before = set(multiprocessing.active_children())
    batches = iter(train_loader(shards, "train", _LongReader(), IMAGES, **options))
    next(batches)
    os.kill(next(iter(set(multiprocessing.active_children()) - before)).pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        list(batches)


def test_an_error_in_a_worker_ends_the_iteration(shards: Path) -> None:
    """Parts of the next batches, if they were taken, would be those of different ones."""
    loader = make_loader(shards, workers=2)
    loader.dataset.make_part = partial(_fail_in_the_second_batch, loader.dataset.make_part)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ZeroDivisionError):
        next(batches)
    assert list(batches) == []


def _fail_in_the_second_batch(make_part: Any, epoch: int, begin: int, rows: range, pixels: Any) -> BatchPart:
    if begin and rows.start == 0:
        raise ZeroDivisionError
    part: BatchPart = make_part(epoch, begin, rows, pixels)
    return part
