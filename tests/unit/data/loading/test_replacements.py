"""Bad samples are replaced, counted, and never by a sample of the same batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.data.loading.loaders import BATCH, COUNT, are_same, join_ranks, make_loader, make_shards, run_epoch
from tests.unit.data.samples import record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.tar_file import TarFile


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
    folder = make_shards(tmp_path / "shards", made)
    whole = run_epoch(make_loader(folder))
    bad = [whole[0].keys[1], whole[0].keys[2], whole[2].keys[7], whole[2].keys[6]]
    _damage(folder, bad)
    found = run_epoch(make_loader(folder))
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
    ranks = [run_epoch(make_loader(folder, rank=rank, world_size=2, workers=2)) for rank in range(2)]
    assert are_same(join_ranks(ranks), found)
    assert [a.skipped | b.skipped for a, b in zip(*ranks, strict=True)] == [batch.skipped for batch in found]
    resumed = make_loader(folder, workers=1)
    resumed.dataset.load_state_dict(resumed.dataset.state_dict(2 * BATCH, True))
    assert are_same(list(resumed), found[2:])


def test_bad_replacement_is_replaced(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(COUNT)])
    whole = run_epoch(make_loader(folder))
    _damage(folder, [whole[0].keys[1], whole[1].keys[1]])
    first = run_epoch(make_loader(folder))[0]
    # In the other stream, whose part of the batch starts in the middle of the stream.
    assert first.keys[1] == whole[1].keys[1 + BATCH // 2]
    assert sum(first.skipped.values()) == 2


def test_one_bad_sample_when_the_batch_is_the_whole_epoch(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(6)])
    _damage(folder, ["k0004"])
    (batch,) = run_epoch(make_loader(folder, global_batch_size=6))
    assert batch.skipped == {records.UNSUPPORTED_IMAGE: 1}
    assert set(batch.keys) == {f"k{n:04d}" for n in range(6)} - {"k0004"}


@pytest.mark.parametrize("bad", range(7))
@pytest.mark.parametrize("batch_size", [4, 6])
def test_replacement_is_outside_the_batch_in_a_split_of_less_than_two(
    tmp_path: Path, bad: int, batch_size: int
) -> None:
    folder = make_shards(tmp_path / "shards", [record(n, web_caption=f"unlike any other {n}") for n in range(7)])
    _damage(folder, [f"k{bad:04d}"])
    (batch,) = run_epoch(make_loader(folder, global_batch_size=batch_size))
    assert len(set(batch.keys)) == batch_size
    assert f"k{bad:04d}" not in batch.keys


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_samples_is_an_error(tmp_path: Path, workers: int) -> None:
    folder = make_shards(tmp_path / "shards", [record(n) for n in range(4)])
    for file in (folder / "train").iterdir():
        file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ConfigError, match=r"4 samples in a row cannot be used .*unreadable_shard"):
        run_epoch(make_loader(folder, global_batch_size=2, workers=workers))
