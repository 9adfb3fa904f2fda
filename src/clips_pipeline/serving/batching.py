"""Dynamic batching: items of requests that arrive together share one forward pass."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Item(Generic[T, R]):
    value: T
    result: "asyncio.Future[R]"


class Queue:
    """Bound on the items of all requests that wait or are worked on. One event loop uses it.

    Args:
        most: the bound.
    """

    def __init__(self, most: int) -> None:
        self.most, self.items = most, 0

    def enter(self, count: int) -> bool:
        """Add items and return True, or return False if they do not fit."""
        if self.items + count > self.most:
            return False
        self.items += count
        return True

    def leave(self, count: int) -> None:
        """Remove items."""
        self.items -= count


class Batcher(Generic[T, R]):
    """Collects items into batches and runs a function on each batch, in a thread.

    A batch is made when the model is free: it has all items that arrived in the meantime. If only some of the expected
    items are there, it waits for the others, at most `max_delay_s`. Items whose request was canceled leave it.

    Args:
        run: function of a batch; returns one result per item, in order.
        executor: thread that runs it.
        model: lock of the model, shared by the batchers of one model; it lets them in by turns.
        max_batch: items of a batch.
        max_delay_s: seconds that an item waits for others.
        expected: number of items that are on their way to this batcher, including those that have arrived.
        on_batch: called with the number of items of each batch.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R]],
        executor: Executor,
        model: asyncio.Lock,
        *,
        max_batch: int,
        max_delay_s: float,
        expected: Callable[[], int],
        on_batch: Callable[[int], None] = lambda items: None,
    ) -> None:
        self._run, self._executor, self._model = run, executor, model
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._expected, self._on_batch = expected, on_batch
        self._items: dict[_Item[T, R], None] = {}  # in the order of arrival
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def results(self, values: Sequence[T]) -> list[R]:
        """Return the results of the values, in order.

        Raises:
            Exception: whatever `run` raises for one of them alone.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        items: list[_Item[T, R]] = [_Item(value, loop.create_future()) for value in values]
        self._items.update(dict.fromkeys(items))
        self._arrived.set()
        try:
            return [await item.result for item in items]
        finally:
            # Where the request was canceled, or one item failed, the others are no longer wanted.
            for item in items:
                self._items.pop(item, None)
                item.result.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    item.result.exception()  # marks it as seen, so that no warning is logged

    async def close(self) -> None:
        """Stop; items that wait are canceled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for item in self._items:
            item.result.cancel()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await self._wait_for_others()
            async with self._model:
                batch = self._take()
                if batch:
                    await self._run_batch(batch)

    async def _wait_for_others(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._max_delay_s
        while len(self._items) < min(self._max_batch, self._expected()) and loop.time() < until:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Item[T, R]]:
        batch: list[_Item[T, R]] = []
        while self._items and len(batch) < self._max_batch:
            item = next(iter(self._items))
            del self._items[item]
            batch.append(item)
        if self._items:
            self._arrived.set()
        else:
            self._arrived.clear()
        return batch

    async def _run_batch(self, batch: list[_Item[T, R]]) -> None:
        self._on_batch(len(batch))
        found = await self._try(batch)
        if isinstance(found, Exception) and len(batch) > 1:
            log.warning("a batch of %d failed (%s); its items are tried one by one", len(batch), type(found).__name__)
            for item in batch:
                if not item.result.done():
                    self._answer([item], await self._try([item]))
        else:
            self._answer(batch, found)

    async def _try(self, batch: list[_Item[T, R]]) -> Sequence[R] | Exception:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._run, [item.value for item in batch])
        except Exception as error:  # whatever a model raises is the answer of these items only
            return error

    @staticmethod
    def _answer(batch: list[_Item[T, R]], found: "Sequence[Any] | Exception") -> None:
        for number, item in enumerate(batch):
            if item.result.done():
                continue
            if isinstance(found, Exception):
                item.result.set_exception(found)
            else:
                item.result.set_result(found[number])
