"""Items that a thread takes: in order, two ahead, with the error of the thread, until nobody wants more."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from clips_pipeline.data.loading.ahead import taken_ahead


def nothing() -> None:
    pass


def test_items_are_converted_in_a_thread_in_order() -> None:
    threads: list[str] = []

    def double(number: int) -> int:
        threads.append(threading.current_thread().name)
        return 2 * number

    assert list(taken_ahead(iter(range(100)), double, nothing)) == list(range(0, 200, 2))
    assert set(threads) == {"batches"}
    assert list(taken_ahead(iter(()), double, nothing)) == []


def test_two_are_taken_before_they_are_asked_for() -> None:
    taken = [threading.Event() for _ in range(5)]
    items = taken_ahead(iter(range(5)), lambda number: (taken[number].set(), number)[1], nothing)
    assert next(items) == 0
    assert taken[2].wait(10)
    assert not taken[3].wait(0.5)
    items.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_what_was_before_it() -> None:
    items = taken_ahead(iter([2, 1, 0, 3]), lambda number: 2 // number, nothing)
    assert list(itertools.islice(items, 2)) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_at_the_start_is_raised() -> None:
    def start() -> None:
        raise ValueError("no such device")

    with pytest.raises(ValueError, match="no such device"):
        next(taken_ahead(iter([1]), int, start))


@pytest.mark.parametrize("close", [True, False])
def test_the_thread_ends_when_nobody_wants_more_and_lets_its_items_go(close: bool) -> None:
    ended = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    items = taken_ahead(numbers(), int, nothing)
    assert next(items) == 0
    if close:
        items.close()  # type: ignore[attr-defined]
    del items
    assert ended.wait(10)
