"""Taking batches in a thread while the last one is trained on."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_POLL_S = 0.2


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def taken_ahead(items: Iterator[S], convert: Callable[[S], T], start: Callable[[], object]) -> Iterator[T]:
    """Yield `convert(item)` of every item. A thread takes and converts them, two at most before they are asked for.

    Args:
        items: iterated in the thread; an error there is raised here.
        convert: called in the thread.
        start: called in the thread first.
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def put(item: T | _End) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=_POLL_S)
                return

    def run() -> None:
        try:
            start()
            for item in map(convert, items):
                put(item)
                if closed.is_set():
                    return
        except BaseException as error:
            put(_End(error))
        else:
            put(_End())

    # A daemon: a read that hangs must not keep the process from ending.
    threading.Thread(target=run, daemon=True, name="batches").start()
    try:
        while not isinstance(taken := ready.get(), _End):
            yield taken
            del taken
        if taken.error is not None:
            raise taken.error
    finally:
        closed.set()
