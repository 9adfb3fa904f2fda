"""Items that a thread takes: in order, two ahead, with the error of the thread, until nobody wants more."""

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
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


class Item:
    pass


def test_nothing_is_held_once_it_was_converted() -> None:
    """Neither by the thread, which waits for the next item, nor by the traceback of an error."""
    made: list[weakref.ref[Item]] = []
    wanted = threading.Event()

    def items() -> Iterator[Item]:
        for _ in range(2):
            made.append(weakref.ref(item := Item()))
            yield item
            del item
        wanted.wait(10)
        raise ValueError("no more")

    taken = taken_ahead(items(), lambda item: 0, nothing)
    gc.disable()
    try:
        for _ in range(2):
            next(taken)
        for _ in range(100):
            if all(reference() is None for reference in made):
                break
            time.sleep(0.1)
        assert [reference() for reference in made] == [None, None]
        wanted.set()
        with pytest.raises(ValueError, match="no more") as raised:
            next(taken)
        iterator = weakref.ref(taken)
        del taken, raised
        assert iterator() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("held", [True, False])
def test_a_process_may_end_while_the_thread_computes(held: bool) -> None:
    """Python ends daemon threads in a way that aborts the process if they are inside PyTorch."""
    code = f"""
import torch
from clips_pipeline.data.loading.ahead import taken_ahead
big = torch.zeros(100_000_000, dtype=torch.uint8)
items = taken_ahead(iter(range(100)), lambda number: [big.clone() for _ in range(5)][0], lambda: None)
next(items)
if not {held}:
    del items
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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
