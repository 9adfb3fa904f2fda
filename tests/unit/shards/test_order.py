"""The order of an epoch."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips_pipeline.shards.order import EpochOrder


def _epoch(order: EpochOrder, epoch: int) -> list[tuple[int, int]]:
    return [order.at(epoch, position) for position in range(order.total)]


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 5),
    block=st.integers(1, 40),
)
def test_every_sample_once(samples: list[int], seed: int, epoch: int, block: int) -> None:
    found = _epoch(EpochOrder(samples, seed, block), epoch)
    assert sorted(found) == [(shard, row) for shard, count in enumerate(samples) for row in range(count)]


def test_epochs_and_seeds_differ() -> None:
    order = EpochOrder([20, 20], seed=0)
    assert _epoch(order, 0) != _epoch(order, 1)
    assert _epoch(order, 0) != _epoch(EpochOrder([20, 20], seed=1), 0)
    assert _epoch(order, 0) == _epoch(EpochOrder([20, 20], seed=0), 0)


def test_the_order_is_the_same_on_every_machine() -> None:
    # A change here changes every training that is resumed.
    wanted = [(2, 0), (2, 2), (1, 1), (2, 1), (1, 0), (2, 3), (0, 1), (0, 0), (0, 2)]
    assert _epoch(EpochOrder([3, 2, 4], seed=7, block_samples=5), 2) == wanted


def test_any_position_without_those_before() -> None:
    order = EpochOrder([5, 3, 8, 2], seed=3, block_samples=6)
    straight = _epoch(order, 4)
    fresh = EpochOrder([5, 3, 8, 2], seed=3, block_samples=6)
    for position in (17, 2, 11, 0, 16, 5):
        assert fresh.at(4, position) == straight[position]
        assert fresh.at(0, position) == order.at(0, position)


def test_reads_stay_within_a_block_of_shards() -> None:
    order = EpochOrder([10] * 12, seed=0, block_samples=30)
    found = _epoch(order, 1)
    for begin in range(0, 120, 30):
        assert len({shard for shard, _ in found[begin : begin + 30]}) == 3
    assert order.widest_block == 3
    assert found[:30] != sorted(found[:30])


@pytest.mark.parametrize(("samples", "widest"), [([1000], 1), ([1, 1, 1, 100], 3), ([5] * 4, 1)])
def test_widest_block(samples: list[int], widest: int) -> None:
    assert EpochOrder(samples, 0, block_samples=3).widest_block == widest


def test_pickles() -> None:
    order = EpochOrder([5, 3], seed=3, block_samples=6)
    order.at(0, 0)
    assert _epoch(pickle.loads(pickle.dumps(order)), 1) == _epoch(order, 1)  # noqa: S301
