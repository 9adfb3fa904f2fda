"""Training batches: the same sequence for any number of ranks and workers, and exact resume."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.loading.loaders import (
    BATCH,
    COUNT,
    IMAGES,
    are_same,
    join_ranks,
    make_loader,
    make_shards,
    run_epoch,
)
from tests.unit.data.samples import LengthReader, ListSource, record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.loading.dataset import TrainDataset
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.loading.order import MAX_STREAMS, WINDOW_SAMPLES
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Caption


def test_batch_contents(shards: Path) -> None:
    batches = run_epoch(make_loader(shards))
    assert len(batches) == COUNT // BATCH == len(make_loader(shards)) == len(make_loader(shards).dataset)
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
    wanted = run_epoch(make_loader(shards), 1)
    ranks = [
        run_epoch(make_loader(shards, rank=rank, world_size=world_size, workers=workers), 1)
        for rank in range(world_size)
    ]
    assert are_same(join_ranks(ranks), wanted)


def test_epochs_and_seeds_differ_and_repeat(shards: Path) -> None:
    loader = make_loader(shards, workers=2)
    first, second = run_epoch(loader, 0), run_epoch(loader, 1)
    assert [batch.keys for batch in first] != [batch.keys for batch in second]
    assert second[0].fragment_ids_BL[:, 1].tolist() == [1] * BATCH
    assert are_same(run_epoch(loader, 0), first)
    assert are_same(run_epoch(make_loader(shards), 1), second)
    assert [batch.keys for batch in run_epoch(make_loader(shards, seed=4))] != [batch.keys for batch in first]


@pytest.mark.parametrize("done", [0, 3, 5])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (2, 2)])
def test_resume_yields_the_rest_of_the_epoch(shards: Path, done: int, world_size: int, workers: int) -> None:
    uninterrupted = make_loader(shards, workers=1)
    wanted = run_epoch(uninterrupted, 2)
    state = uninterrupted.dataset.state_dict(done * BATCH, True)
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301
    ranks, after = [], []
    for rank in range(world_size):
        loader = make_loader(shards, rank=rank, world_size=world_size, workers=workers)
        loader.dataset.load_state_dict(state)
        # A callback that sets the current epoch again must not reset the position.
        loader.dataset.set_epoch(2)
        assert loader.dataset.state_dict(8, from_beginning=False)["samples"] == done * BATCH + 8
        ranks.append(list(loader))
        after.append(run_epoch(loader, 3))
    assert are_same(join_ranks(ranks), wanted[done:])
    assert are_same(join_ranks(after), run_epoch(make_loader(shards), 3))


def test_resume_with_another_batch_size_continues_at_the_same_sample(shards: Path) -> None:
    whole = {"window_samples": WINDOW_SAMPLES, "max_streams": MAX_STREAMS}
    keys = [key for batch in run_epoch(make_loader(shards, **whole)) for key in batch.keys]
    loader = make_loader(shards, **whole, global_batch_size=5)
    loader.dataset.load_state_dict(make_loader(shards, **whole).dataset.state_dict(16, True))
    assert [key for batch in loader for key in batch.keys][:20] == keys[16:36]


def test_two_streams_resume_with_another_batch_size_that_has_two_streams(shards: Path) -> None:
    state = make_loader(shards).dataset.state_dict(16, True)
    assert state["streams"] == 2
    keys = [batch.keys for batch in run_epoch(make_loader(shards))]
    loader = make_loader(shards, global_batch_size=4)
    loader.dataset.load_state_dict(state)
    found = [batch.keys for batch in loader]
    assert [a[:2] + b[:2] + a[2:] + b[2:] for a, b in zip(found[::2], found[1::2], strict=False)] == keys[2:]
    with pytest.raises(ConfigError, match="streams 2, now it is 1"):
        make_loader(shards, global_batch_size=5).dataset.load_state_dict(state)


def test_state_of_other_data_is_refused(shards: Path, tmp_path: Path) -> None:
    state = make_loader(shards).dataset.state_dict(8, True)
    with pytest.raises(ConfigError, match="seed 3, now it is 4"):
        make_loader(shards, seed=4).dataset.load_state_dict(state)
    made = ListSource({"train": [[record(number) for number in range(20)]]}, name="other")
    prepare(made, tmp_path / "other")
    with pytest.raises(ConfigError, match="made with shards"):
        make_loader(tmp_path / "other").dataset.load_state_dict(state)


def test_interrupted_iteration_does_not_change_the_epoch(shards: Path) -> None:
    loader = make_loader(shards, workers=2)
    wanted = run_epoch(loader)
    next(iter(loader))
    assert are_same(list(loader), wanted)


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
        make_loader(shards, **changes)


def test_shards_that_differ_from_the_index_are_refused(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [record(n) for n in range(10)])
    (folder / "train" / "00001.tar").unlink()
    with pytest.raises(ConfigError, match=r"00001\.tar is missing \(1 such"):
        make_loader(folder)
    with pytest.raises(ConfigError, match="split 'test' is not in the index; it has train"):
        train_loader(folder, "test", LengthReader(), IMAGES, global_batch_size=2)
    with pytest.raises(ConfigError, match=r"index\.json: no such file"):
        make_loader(tmp_path)


def test_dataset_works_in_spawned_workers(shards: Path) -> None:
    loader = make_loader(shards)
    wanted = run_epoch(loader)
    loader.dataset.set_epoch(0)
    # A worker of an earlier test's loader may still be ending.
    before = set(multiprocessing.active_children())
    copy: TrainDataset = pickle.loads(pickle.dumps(loader.dataset))  # noqa: S301
    assert are_same(list(copy), wanted)
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
    return make_shards(tmp_path_factory.mktemp("several") / "shards", made)


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

    wanted = [run_epoch(loader(), epoch) for epoch in (0, 1)]
    assert len({tuple(row[4:6]) for batch in wanted[0] for row in batch.web_ids_BL.tolist()}) > 2
    for epoch in (0, 1):
        ranks = [
            run_epoch(loader(rank=rank, world_size=world_size, workers=workers), epoch) for rank in range(world_size)
        ]
        assert are_same(join_ranks(ranks), wanted[epoch])
    done, first = 2, loader(workers=workers)
    first.dataset.set_epoch(1)
    state = first.dataset.state_dict(done * BATCH)
    rest = []
    for rank in range(world_size):
        resumed = loader(rank=rank, world_size=world_size, workers=workers)
        resumed.dataset.load_state_dict(state)
        rest.append(list(resumed))
    assert are_same(join_ranks(rest), wanted[1][done:])
    # The next epoch draws others.
    drawn = [dict(zip(batch.keys, batch.target_ids_BT.tolist(), strict=True)) for epoch in wanted for batch in epoch]
    first_epoch, second_epoch = (
        {k: row for part in half for k, row in part.items()} for half in (drawn[:5], drawn[5:])
    )
    assert sum(first_epoch[k] != second_epoch[k] for k in first_epoch.keys() & second_epoch) > COUNT // 4
