"""Items of requests that arrive together share a batch; canceled ones leave it; a bad one fails alone."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.served import Running, app_running, opened, picture
from tests.servers import wait_for

from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.serving.batching import Batcher, Queue
from clips_pipeline.serving.config import ServeConfig


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Recorder:
    """A function of batches that records them, and waits at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, batch: list[int]) -> Sequence[int]:
        self.open.wait(30)
        self.batches.append(batch)
        if 13 in batch:
            raise ValueError("13")
        return [10 * value for value in batch]


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 30))


def batcher(recorder: Recorder, executor: ThreadPoolExecutor, expected: int = 0, **options: Any) -> Batcher[int, int]:
    options = {"max_batch": 4, "max_delay_s": 0.0} | options
    return Batcher(recorder, executor, asyncio.Lock(), expected=lambda: expected, **options)


def test_items_that_wait_for_the_model_share_its_next_batch(executor: ThreadPoolExecutor) -> None:
    recorder = Recorder()

    async def work() -> None:
        made = batcher(recorder, executor)
        recorder.open.clear()
        first = asyncio.create_task(made.results([1]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(made.results([value, value + 20])) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        recorder.open.set()
        assert await first == [10]
        assert [await other for other in others] == [[20, 220], [30, 230], [40, 240]]
        await made.close()

    run(work)
    assert [len(batch) for batch in recorder.batches[:2]] == [1, 4]


def test_an_item_waits_for_expected_ones_and_no_longer_than_the_delay(executor: ThreadPoolExecutor) -> None:
    recorder = Recorder()

    async def work() -> None:
        made = batcher(recorder, executor, expected=2, max_delay_s=20.0)
        first = asyncio.create_task(made.results([1]))
        await asyncio.sleep(0.05)
        assert recorder.batches == []
        assert await made.results([2]) == [20]
        assert await first == [10]
        await made.close()
        short = batcher(recorder, executor, expected=2, max_delay_s=0.01)
        assert await short.results([3]) == [30]
        await short.close()

    run(work)
    assert recorder.batches == [[1, 2], [3]]


def test_cancelled_items_leave_the_batch(executor: ThreadPoolExecutor) -> None:
    recorder = Recorder()

    async def work() -> None:
        made = batcher(recorder, executor)
        recorder.open.clear()
        first = asyncio.create_task(made.results([1]))
        await asyncio.sleep(0.05)
        gone, stays = asyncio.create_task(made.results([2, 3])), asyncio.create_task(made.results([4]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        recorder.open.set()
        assert (await first, await stays) == ([10], [40])
        await made.close()

    run(work)
    assert recorder.batches == [[1], [4]]


def test_one_failing_item_fails_alone(executor: ThreadPoolExecutor) -> None:
    recorder = Recorder()

    async def work() -> None:
        made = batcher(recorder, executor, expected=3, max_delay_s=20.0)
        results = await asyncio.gather(*(made.results([v]) for v in (1, 13, 2)), return_exceptions=True)
        assert results[0] == [10]
        assert results[2] == [20]
        assert isinstance(results[1], ValueError)
        await made.close()

    run(work)


def test_the_queue_is_bounded() -> None:
    queue = Queue(3)
    assert queue.enter(2)
    assert not queue.enter(2)
    queue.leave(2)
    assert queue.enter(3)


@pytest.fixture(scope="module")
def narrow(model_folder: Path) -> Iterator[Running]:
    """An app with a short queue, whose batches wait for slow machines."""
    with app_running(model_folder, config=ServeConfig(max_queue=16, max_items=16, max_delay_ms=1000)) as app:
        yield app


@contextmanager
def model_held(app: Running) -> Iterator[None]:
    """Hold the thread of the model, so that requests wait."""
    release = threading.Event()
    app.inference._model_thread.submit(release.wait)
    try:
        yield
    finally:
        release.set()


def passes(app: Running, kind: str) -> float:
    metrics = app.client.get("/metrics").text
    return float(metrics.split(f'clips_batch_items_count{{kind="{kind}"}} ')[1].split("\n")[0])


def test_requests_together_are_fewer_passes_with_equal_results(narrow: Running, embedder: Embedder) -> None:
    texts = [f"a red square {'and a blue circle' * number}" for number in range(8)]
    colors = ["red", "green", "blue", "white", "black", "gray", "pink", "navy"]

    def text(number: int) -> Any:
        return narrow.post("/embed/text", {"texts": [texts[number]]})

    def image(number: int) -> Any:
        return narrow.post_image("/embed/image", picture(colors[number]))

    for kind, call in (("text", text), ("image", image)):
        before = passes(narrow, kind)
        with ThreadPoolExecutor(8) as pool, model_held(narrow):
            waiting = [pool.submit(call, number) for number in range(8)]
            wait_for(lambda: narrow.inference.queue.items == 8)
        found = [one.result().json()["embeddings"][0] for one in waiting]
        assert passes(narrow, kind) - before <= 4
        singles = [
            embedder.texts([texts[number]]) if kind == "text" else embedder.images([opened(picture(colors[number]))])
            for number in range(8)
        ]
        assert np.allclose(found, np.concatenate(singles), atol=1e-6)


def test_a_full_queue_answers_503_with_retry_after_and_recovers(narrow: Running) -> None:
    full = {"texts": ["a red square"] * 16}
    with ThreadPoolExecutor(1) as pool, model_held(narrow):
        waiting = pool.submit(narrow.post, "/embed/text", full)
        wait_for(lambda: narrow.inference.queue.items == 16)
        refused = narrow.post("/embed/text", {"texts": ["a"]})
        assert narrow.client.get("/healthz").status_code == 200
    assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "busy")
    assert refused.headers["Retry-After"] == "1"
    assert waiting.result().status_code == 200
    assert narrow.inference.queue.items == 0
    assert narrow.post("/embed/text", full).status_code == 200
