"""Training batches: the same sequence for any number of ranks and workers, exact resume, replaced bad samples."""

import copy
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.samples import LengthReader, ListSource, record
from torch.utils.data import get_worker_info

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.color_batch import change_colors
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.batch import BatchPart, ClipsBatch
from clips_pipeline.data.loading.dataset import TrainDataset
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.loading.order import MAX_STREAMS, WINDOW_SAMPLES
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import ShardSet, eval_samples
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.data.shards.tar_file import TarFile
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.models.sizes import SIZES

IMAGES = ImageConfig(size=8)
COUNT, BATCH = 46, 8


def _shards(folder: Path, made: list[Record], tasks: int = 5) -> Path:
    step = -(-len(made) // tasks)
    prepare(ListSource({"train": [list(made[at : at + step]) for at in range(0, len(made), step)]}), folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _shards(tmp_path_factory.mktemp("loader") / "shards", [record(number) for number in range(COUNT)])


def _loader(folder: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "global_batch_size": BATCH,
        "seed": 3,
        "window_samples": 15,
        "max_streams": 2,
    }
    return train_loader(folder, "train", LengthReader(), IMAGES, **(options | changes))


def _epoch(loader: Any, epoch: int = 0) -> list[ClipsBatch]:
    loader.dataset.set_epoch(epoch)
    return list(loader)


def _same(found: list[ClipsBatch], wanted: list[ClipsBatch]) -> bool:
    return [batch.keys for batch in found] == [batch.keys for batch in wanted] and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(found, wanted, strict=True)
        for name in ("images_BCHW", "web_ids_BL", "fragment_ids_BL", "target_ids_BT")
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_device_may_change_the_colors(shards: Path, workers: int) -> None:
    """Batches then have the changes, which depend on seed, epoch and key alone; the pixels are those of the loader."""
    images = ImageConfig(size=8, color_jitter=0.8, grayscale_probability=0.3)
    options: Any = {"global_batch_size": BATCH, "seed": 3, "workers": workers}
    usual, later = (
        _epoch(train_loader(shards, "train", LengthReader(), images, colors_later=colors_later, **options), epoch=1)
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
    for batch in _epoch(_loader(shards, workers=workers, layout=layout)):
        wanted = layout(batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT)
        assert batch.layout is not None
        assert batch.layout.sizes == wanted.sizes
        assert torch.equal(batch.layout.numbers, wanted.numbers)
        assert copy.deepcopy(batch) is batch
        moved = batch.to("meta").layout
        assert moved is not None
        assert moved.numbers.device.type == "meta"


def _joined(ranks: list[list[ClipsBatch]]) -> list[ClipsBatch]:
    """Join the parts of all ranks to global batches, as a gather does."""
    return [
        ClipsBatch(
            torch.cat([part.images_BCHW for part in parts]),
            torch.cat([part.web_ids_BL for part in parts]),
            torch.cat([part.fragment_ids_BL for part in parts]),
            torch.cat([part.target_ids_BT for part in parts]),
            [key for part in parts for key in part.keys],
        )
        for parts in zip(*ranks, strict=True)
    ]


def test_batch_contents(shards: Path) -> None:
    batches = _epoch(_loader(shards))
    assert len(batches) == COUNT // BATCH == len(_loader(shards)) == len(_loader(shards).dataset)
    batch = batches[0]
    assert len(batch) == BATCH
    assert (batch.images_BCHW.shape, batch.images_BCHW.dtype) == ((BATCH, 3, 8, 8), torch.uint8)
    assert (batch.web_ids_BL.shape, batch.fragment_ids_BL.shape, batch.target_ids_BT.shape) == ((8, 2), (8, 2), (8, 3))
    assert batch.target_ids_BT.dtype == torch.int64
    assert [f"k{number:04d}" for number in batch.web_ids_BL[:, 0].tolist()] == batch.keys
    assert batch.skipped == {}
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == len(keys)
    assert batch.to("meta").images_BCHW.is_meta
    assert batch.to("meta").keys == batch.keys


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker:UserWarning")
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_same_global_batches_for_any_ranks_and_workers(shards: Path, world_size: int, workers: int) -> None:
    wanted = _epoch(_loader(shards), 1)
    ranks = [
        _epoch(_loader(shards, rank=rank, world_size=world_size, workers=workers), 1) for rank in range(world_size)
    ]
    assert _same(_joined(ranks), wanted)


def test_epochs_and_seeds_differ_and_repeat(shards: Path) -> None:
    loader = _loader(shards, workers=2)
    first, second = _epoch(loader, 0), _epoch(loader, 1)
    assert [batch.keys for batch in first] != [batch.keys for batch in second]
    assert second[0].fragment_ids_BL[:, 1].tolist() == [1] * BATCH
    assert _same(_epoch(loader, 0), first)
    assert _same(_epoch(_loader(shards), 1), second)
    assert [batch.keys for batch in _epoch(_loader(shards, seed=4))] != [batch.keys for batch in first]


@pytest.mark.parametrize("done", [0, 3, 5])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (2, 2)])
def test_resume_yields_the_rest_of_the_epoch(shards: Path, done: int, world_size: int, workers: int) -> None:
    uninterrupted = _loader(shards, workers=1)
    wanted = _epoch(uninterrupted, 2)
    state = uninterrupted.dataset.state_dict(done * BATCH, True)
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301
    ranks, after = [], []
    for rank in range(world_size):
        loader = _loader(shards, rank=rank, world_size=world_size, workers=workers)
        loader.dataset.load_state_dict(state)
        # A callback that sets the current epoch again must not reset the position.
        loader.dataset.set_epoch(2)
        assert loader.dataset.state_dict(8, from_beginning=False)["samples"] == done * BATCH + 8
        ranks.append(list(loader))
        after.append(_epoch(loader, 3))
    assert _same(_joined(ranks), wanted[done:])
    assert _same(_joined(after), _epoch(_loader(shards), 3))


def test_resume_with_another_batch_size_continues_at_the_same_sample(shards: Path) -> None:
    whole = {"window_samples": WINDOW_SAMPLES, "max_streams": MAX_STREAMS}
    keys = [key for batch in _epoch(_loader(shards, **whole)) for key in batch.keys]
    loader = _loader(shards, **whole, global_batch_size=5)
    loader.dataset.load_state_dict(_loader(shards, **whole).dataset.state_dict(16, True))
    assert [key for batch in loader for key in batch.keys][:20] == keys[16:36]


def test_two_streams_resume_with_another_batch_size_that_has_two_streams(shards: Path) -> None:
    state = _loader(shards).dataset.state_dict(16, True)
    assert state["streams"] == 2
    keys = [batch.keys for batch in _epoch(_loader(shards))]
    loader = _loader(shards, global_batch_size=4)
    loader.dataset.load_state_dict(state)
    found = [batch.keys for batch in loader]
    assert [a[:2] + b[:2] + a[2:] + b[2:] for a, b in zip(found[::2], found[1::2], strict=False)] == keys[2:]
    with pytest.raises(ConfigError, match="streams 2, now it is 1"):
        _loader(shards, global_batch_size=5).dataset.load_state_dict(state)


def test_state_of_other_data_is_refused(shards: Path, tmp_path: Path) -> None:
    state = _loader(shards).dataset.state_dict(8, True)
    with pytest.raises(ConfigError, match="seed 3, now it is 4"):
        _loader(shards, seed=4).dataset.load_state_dict(state)
    made = ListSource({"train": [[record(number) for number in range(20)]]}, name="other")
    prepare(made, tmp_path / "other")
    with pytest.raises(ConfigError, match="made with shards"):
        _loader(tmp_path / "other").dataset.load_state_dict(state)


def test_interrupted_iteration_does_not_change_the_epoch(shards: Path) -> None:
    loader = _loader(shards, workers=2)
    wanted = _epoch(loader)
    next(iter(loader))
    assert _same(list(loader), wanted)


def _overwrite(folder: Path, key: str, find: Callable[[Record], bytes], value: bytes) -> None:
    """Damage a sample in its shard without changing the size of a file."""
    (wanted,) = [sample for sample in eval_samples(folder, "train") if sample.key == key]
    content = find(wanted)
    for file in sorted((folder / "train").iterdir()):
        with TarFile(file) as tar:
            inside = key in tar.keys
        if inside:
            data = bytearray(file.read_bytes())
            at = data.index(content)
            data[at : at + len(content)] = (value * len(content))[: len(content)]
            file.write_bytes(bytes(data))


def _damage(folder: Path, keys: list[str]) -> None:
    for number, key in enumerate(keys):
        if number % 2:
            _overwrite(folder, key, lambda sample: sample.web_caption.encode(), b" ")
        else:
            _overwrite(folder, key, lambda sample: sample.image, b"\0")


def test_bad_samples_are_replaced_and_counted(tmp_path: Path, shards: Path) -> None:
    made = [record(number, web_caption=f"unlike any other {number}") for number in range(COUNT)]
    folder = _shards(tmp_path / "shards", made)
    whole = _epoch(_loader(folder))
    bad = [whole[0].keys[1], whole[0].keys[2], whole[2].keys[7], whole[2].keys[6]]
    _damage(folder, bad)
    found = _epoch(_loader(folder))
    assert [sum(batch.skipped.values()) for batch in found] == [2, 0, 2, 0, 0]
    assert found[0].skipped == {records.UNSUPPORTED_IMAGE: 1, records.EMPTY_WEB_CAPTION: 1}
    for batch, before in zip(found, whole, strict=True):
        assert len(batch) == BATCH
        assert len(set(batch.keys)) == BATCH
        assert not set(batch.keys) & set(bad)
        # Only the bad samples have changed.
        assert all(new == old for new, old in zip(batch.keys, before.keys, strict=True) if old not in bad)
    # The replacements are from the same positions, one batch later.
    assert found[0].keys[1:3] == whole[1].keys[1:3]
    ranks = [_epoch(_loader(folder, rank=rank, world_size=2, workers=2)) for rank in range(2)]
    assert _same(_joined(ranks), found)
    assert [a.skipped | b.skipped for a, b in zip(*ranks, strict=True)] == [batch.skipped for batch in found]
    resumed = _loader(folder, workers=1)
    resumed.dataset.load_state_dict(resumed.dataset.state_dict(2 * BATCH, True))
    assert _same(list(resumed), found[2:])


def test_bad_replacement_is_replaced(tmp_path: Path) -> None:
    folder = _shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(COUNT)])
    whole = _epoch(_loader(folder))
    _damage(folder, [whole[0].keys[1], whole[1].keys[1]])
    first = _epoch(_loader(folder))[0]
    # In the other stream, whose part of the batch starts in the middle of the stream.
    assert first.keys[1] == whole[1].keys[1 + BATCH // 2]
    assert sum(first.skipped.values()) == 2


def test_one_bad_sample_when_the_batch_is_the_whole_epoch(tmp_path: Path) -> None:
    folder = _shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(6)])
    _damage(folder, ["k0004"])
    (batch,) = _epoch(_loader(folder, global_batch_size=6))
    assert batch.skipped == {records.UNSUPPORTED_IMAGE: 1}
    assert set(batch.keys) == {f"k{n:04d}" for n in range(6)} - {"k0004"}


@pytest.mark.parametrize("bad", range(7))
@pytest.mark.parametrize("batch_size", [4, 6])
def test_replacement_is_outside_the_batch_in_a_split_of_less_than_two(
    tmp_path: Path, bad: int, batch_size: int
) -> None:
    folder = _shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(7)])
    _damage(folder, [f"k{bad:04d}"])
    (batch,) = _epoch(_loader(folder, global_batch_size=batch_size))
    assert len(set(batch.keys)) == batch_size
    assert f"k{bad:04d}" not in batch.keys


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_samples_is_an_error(tmp_path: Path, workers: int) -> None:
    folder = _shards(tmp_path / "shards", [record(n) for n in range(4)])
    for file in (folder / "train").iterdir():
        file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ConfigError, match=r"4 samples in a row cannot be used .*unreadable_shard"):
        _epoch(_loader(folder, global_batch_size=2, workers=workers))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": COUNT + 1}, "46 samples, fewer than one global batch of 47"),
        ({"global_batch_size": 9, "world_size": 2}, "9 does not divide by 2 ranks"),
        ({"rank": 2, "world_size": 2}, "out of range"),
        ({"workers": -1}, "out of range"),
    ],
)
def test_impossible_loaders_are_refused_before_work(shards: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _loader(shards, **changes)


def test_shards_that_differ_from_the_index_are_refused(tmp_path: Path) -> None:
    folder = _shards(tmp_path / "shards", [record(n) for n in range(10)])
    (folder / "train" / "00001.tar").unlink()
    with pytest.raises(ConfigError, match=r"00001\.tar is missing \(1 such"):
        _loader(folder)
    with pytest.raises(ConfigError, match="split 'test' is not in the index; it has train"):
        train_loader(folder, "test", LengthReader(), IMAGES, global_batch_size=2)
    with pytest.raises(ConfigError, match=r"index\.json: no such file"):
        _loader(tmp_path)


def test_more_workers_than_samples(shards: Path) -> None:
    loader = _loader(shards, global_batch_size=2, workers=3)
    assert loader.workers == 2
    assert _same(_epoch(loader), _epoch(_loader(shards, global_batch_size=2)))


def test_global_random_state_is_unchanged(shards: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    _epoch(_loader(shards, workers=1))
    _epoch(_loader(shards))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_workers_write_images_where_the_trainer_reads_them(shards: Path) -> None:
    """No copy is made as long as the trainer lets its batches go; if it holds all, their images stay as they are."""
    wanted = _epoch(_loader(shards, global_batch_size=4))
    loader = _loader(shards, global_batch_size=4, workers=2, prefetch_batches=1)
    addresses = []
    for batch, whole in zip(loader, wanted, strict=True):
        addresses.append(batch.images_BCHW.data_ptr())
        assert torch.equal(batch.images_BCHW, whole.images_BCHW)
    assert len(addresses) == 11
    assert len(set(addresses)) <= 3
    loader.dataset.set_epoch(0)
    held = list(loader)
    assert len({batch.images_BCHW.data_ptr() for batch in held}) == 11
    assert _same(held, wanted)


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
    wanted = _epoch(_loader(shards), 1)
    before = torch.get_num_threads()
    assert _same(_epoch(_loader(shards, workers=2, for_gpu=True), 1), wanted)
    assert gpus == [5]
    assert threading.main_thread() not in threads
    assert torch.get_num_threads() == before


def test_dataset_works_in_spawned_workers(shards: Path) -> None:
    loader = _loader(shards)
    wanted = _epoch(loader)
    loader.dataset.set_epoch(0)
    # A worker of an earlier test's loader may still be ending.
    before = set(multiprocessing.active_children())
    copy: TrainDataset = pickle.loads(pickle.dumps(loader.dataset))  # noqa: S301
    assert _same(list(copy), wanted)
    assert set(multiprocessing.active_children()) <= before


def test_few_files_are_open_at_a_time(shards: Path) -> None:
    opened = ShardSet(shards, "train", max_open_files=2)
    for shard in (0, 1, 2, 0, 3, 0):
        assert opened.read(shard, 0).key == f"k{10 * shard:04d}"
    assert list(opened._open) == [3, 0]
    opened.close()
    assert opened.read(1, 1).web_caption == "web 11"
    opened.close()


def test_with_the_real_caption_reader(shards: Path) -> None:
    from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
    from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

    pieces = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", "web", "long", "and", "more", ".", *"0123456789"]
    tokenizer = WordPieceTokenizer([*pieces, *(f"##{digit}" for digit in "0123456789")])
    reader = CaptionReader(CaptionConfig(context_length=12, target_length=16), tokenizer, seed=3)
    loader = train_loader(shards, "train", reader, IMAGES, global_batch_size=BATCH, workers=1, seed=3)
    batch = next(iter(loader))
    assert (batch.web_ids_BL.shape, batch.target_ids_BT.shape) == ((BATCH, 12), (BATCH, 16))
    assert tokenizer.decode(batch.web_ids_BL[0].tolist()).replace(" ", "") == f"web{int(batch.keys[0][1:])}"


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
    loader = _loader(shards, workers=2)
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


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose samples have three web captions and three synthetic ones."""
    made = [
        record(
            number,
            web_captions=tuple(f"web {number} and {word}" for word in ("more", "long", "web")),
            synthetic_captions=tuple(Caption(f"Long {number} {word}.", word) for word in ("more", "long", "and")),
        )
        for number in range(COUNT)
    ]
    return _shards(tmp_path_factory.mktemp("several") / "shards", made)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (4, 1)])
def test_the_same_captions_are_drawn_for_any_ranks_and_workers_and_after_resume(
    several: Path, world_size: int, workers: int
) -> None:
    from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
    from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

    pieces = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", "web", "long", "and", "more", ".", *"0123456789"]
    tokenizer = WordPieceTokenizer([*pieces, *(f"##{digit}" for digit in "0123456789")])
    reader = CaptionReader(CaptionConfig(context_length=12, target_length=12), tokenizer, seed=3)

    def loader(**changes: Any) -> Any:
        options = {"global_batch_size": BATCH, "seed": 3, "window_samples": 15, "max_streams": 2}
        return train_loader(several, "train", reader, IMAGES, **(options | changes))

    wanted = [_epoch(loader(), epoch) for epoch in (0, 1)]
    assert len({tuple(row[4:6]) for batch in wanted[0] for row in batch.web_ids_BL.tolist()}) > 2
    for epoch in (0, 1):
        ranks = [_epoch(loader(rank=rank, world_size=world_size, workers=workers), epoch) for rank in range(world_size)]
        assert _same(_joined(ranks), wanted[epoch])
    done, first = 2, loader(workers=workers)
    first.dataset.set_epoch(1)
    state = first.dataset.state_dict(done * BATCH)
    rest = []
    for rank in range(world_size):
        resumed = loader(rank=rank, world_size=world_size, workers=workers)
        resumed.dataset.load_state_dict(state)
        rest.append(list(resumed))
    assert _same(_joined(rest), wanted[1][done:])
    # The next epoch draws others.
    drawn = [dict(zip(batch.keys, batch.target_ids_BT.tolist(), strict=True)) for epoch in wanted for batch in epoch]
    first_epoch, second_epoch = (
        {k: row for part in half for k, row in part.items()} for half in (drawn[:5], drawn[5:])
    )
    assert sum(first_epoch[k] != second_epoch[k] for k in first_epoch.keys() & second_epoch) > COUNT // 4
