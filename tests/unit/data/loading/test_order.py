"""Sample order of an epoch."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips_pipeline.data.loading.order import EpochOrder, choose_streams


def _stream(order: EpochOrder, epoch: int, stream: int) -> list[tuple[int, int]]:
    return [order.locate(epoch, stream, position) for position in range(order.stream_length)]


def _epoch(order: EpochOrder, epoch: int) -> list[tuple[int, int]]:
    return [sample for stream in range(order.streams) for sample in _stream(order, epoch, stream)]


@settings(max_examples=80, deadline=None)
@given(
    samples=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 5),
    window=st.integers(1, 40),
    streams=st.integers(1, 4),
)
def test_every_sample_once_except_the_remainder_of_the_line(
    samples: list[int], seed: int, epoch: int, window: int, streams: int
) -> None:
    order = EpochOrder(samples, seed, window, streams)
    found = _epoch(order, epoch)
    every = {(shard, row) for shard, count in enumerate(samples) for row in range(count)}
    assert len(found) == len(set(found)) == sum(samples) // streams * streams
    assert set(found) <= every


def _naive(samples: list[int], seed: int, epoch: int, window: int, streams: int) -> list[list[tuple[int, int]]]:
    """The same order, written from the module's documentation; only the hash is shared."""
    from clips_pipeline.data.loading.order import _hash

    places = _hash(seed, epoch, "shards", np.arange(len(samples))).tolist()
    line = [(s, row) for s in sorted(range(len(samples)), key=places.__getitem__) for row in range(samples[s])]
    length = len(line) // streams
    parts = []
    for stream in range(streams):
        part = line[stream * length : (stream + 1) * length]
        shuffled = []
        for begin in range(0, length, window):
            ids = [sum(samples[:s]) + row for s, row in part[begin : begin + window]]
            keys = dict(zip(ids, _hash(seed, epoch, "samples", np.array(ids)).tolist(), strict=True))
            pairs = dict(zip(ids, part[begin : begin + window], strict=True))
            shuffled += [pairs[number] for number in sorted(ids, key=keys.__getitem__)]
        parts.append(shuffled)
    return parts


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.integers(1, 7), min_size=1, max_size=9), window=st.integers(3, 40), streams=st.integers(1, 3)
)
def test_equal_to_the_naive_order(samples: list[int], window: int, streams: int) -> None:
    order = EpochOrder(samples, 5, window, streams)
    wanted = _naive(samples, 5, 2, max(1, window // streams), streams)
    assert [_stream(order, 2, stream) for stream in range(streams)] == wanted


def test_epochs_and_seeds_differ() -> None:
    order = EpochOrder([20, 20], seed=0)
    assert _epoch(order, 0) != _epoch(order, 1)
    assert _epoch(order, 0) != _epoch(EpochOrder([20, 20], seed=1), 0)
    assert _epoch(order, 0) == _epoch(EpochOrder([20, 20], seed=0), 0)


def test_the_order_is_the_same_on_every_machine() -> None:
    # A change here changes every training that is resumed.
    wanted = [(2, 0), (2, 2), (1, 1), (2, 1), (1, 0), (2, 3), (0, 1), (0, 0), (0, 2)]
    assert _epoch(EpochOrder([3, 2, 4], seed=7, window_samples=6), 2) == wanted


def test_random_access_to_positions() -> None:
    order = EpochOrder([5, 3, 8, 2], seed=3, window_samples=6, streams=2)
    straight = _epoch(order, 4)
    fresh = EpochOrder([5, 3, 8, 2], seed=3, window_samples=6, streams=2)
    for position in (17, 2, 11, 0, 16, 5):
        assert fresh.locate(4, *divmod(position, 9)) == straight[position]
        assert fresh.locate(0, *divmod(position, 9)) == order.locate(0, *divmod(position, 9))


def test_reads_stay_within_the_shards_of_a_window() -> None:
    order = EpochOrder([10, 0, *[10] * 11], seed=0, window_samples=60, streams=2)
    assert order.window == 30
    for stream in range(2):
        found = _stream(order, 1, stream)
        for begin in range(0, order.stream_length, 30):
            window = found[begin : begin + 30]
            assert {shard for shard, _ in window} == set(order.window_shards(1, stream, begin + 7))
            assert len(order.window_shards(1, stream, begin)) <= 4
            assert window != sorted(window)
        assert order.window_shards(1, stream, order.stream_length) == []
    assert order.max_open_shards <= 12


@pytest.mark.parametrize(("samples", "max_open_shards"), [([1000], 1), ([1, 1, 1, 100], 4), ([5] * 4, 2)])
def test_max_open_shards(samples: list[int], max_open_shards: int) -> None:
    assert EpochOrder(samples, 0, window_samples=3).max_open_shards == max_open_shards


def test_many_small_shards_do_not_open_too_many_files() -> None:
    order = EpochOrder([3] * 5000, 0, window_samples=15_000)
    assert order.window == 3 * 512
    assert len(order.window_shards(0, 0, 0)) <= 514


@pytest.mark.parametrize(
    ("samples", "batch", "streams"),
    [(20_000, 64, 1), (250_000, 64, 1), (250_001, 64, 64), (1_000_000, 30, 30), (10**9, 67, 1), (10**9, 32_768, 64)],
)
def test_streams_divide_the_batch_and_one_window_is_one_stream(samples: int, batch: int, streams: int) -> None:
    assert choose_streams(samples, batch, 250_000) == streams


def test_order_can_be_pickled() -> None:
    order = EpochOrder([5, 3], seed=3, window_samples=6, streams=2)
    order.locate(0, 0, 0)
    assert _epoch(pickle.loads(pickle.dumps(order)), 1) == _epoch(order, 1)  # noqa: S301
