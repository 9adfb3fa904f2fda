"""Taking batches in a thread while the last one is trained on."""

import atexit
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_POLL_S = 0.2
_JOIN_S = 5.0


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
            for item in items:
                if closed.is_set():
                    return
                taken = convert(item)
                del item  # so that nothing is held while the next one is awaited
                put(taken)
                del taken
        except BaseException as error:
            put(_End(error))
        else:
            put(_End())

    # A daemon: a read that hangs must not keep the process from ending.
    thread = threading.Thread(target=run, daemon=True, name="batches")

    def close() -> None:
        closed.set()
        with suppress(queue.Empty):
            ready.get_nowait()
        # A thread that computes while the interpreter ends aborts the process.
        thread.join(_JOIN_S)

    atexit.register(close)
    thread.start()
    taken: T | _End | None = None
    try:
        while not isinstance(taken := ready.get(), _End):
            yield taken
            taken = None
        if taken.error is not None:
            raise taken.error
    finally:
        taken = None  # otherwise the traceback of its error would hold it, and so the items
        close()
        atexit.unregister(close)
