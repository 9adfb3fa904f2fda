"""The server under load: memory stays the same, a kill costs only the requests under way, mutated requests harm nothing.

`CLIPS_DRILL_SERVE_SECONDS=600` makes the first one long (`make drill-serve`).
"""

import asyncio
import base64
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.served import make_model, picture, server_process

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("CLIPS_DRILL_SERVE_SECONDS", "30"))
CLIENTS = 8

IMAGES = [base64.b64encode(picture(color, "JPEG", (640, 480))).decode() for color in ("red", "blue", "green")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served"))


def request_of(draws: random.Random) -> tuple[str, dict[str, Any], int]:
    """Return the path and the body of a request, and the status that it gets."""
    words = ["red", "blue", "square", "circle", "a", "the", "line"]
    text = " ".join(draws.choices(words, k=draws.randint(1, 40)))
    kinds: list[tuple[str, dict[str, Any], int]] = [
        ("/embed/text", {"texts": [text] * draws.randint(1, 30)}, 200),
        ("/embed/image", {"images": draws.choices(IMAGES, k=draws.randint(1, 4))}, 200),
        ("/similarity", {"images": [IMAGES[0]], "texts": [text, ""]}, 200),
        ("/caption", {"images": [IMAGES[1]], "web_captions": [text]}, 200),
        ("/embed/image", {"images": [text]}, 422),
        ("/embed/text", {"texts": "x" * draws.randint(1, 100_000)}, 422),
    ]
    return draws.choice(kinds)


async def work(url: str, seed: int, until: float, found: Counter[str]) -> None:
    """Send requests one after the other; every tenth client goes away before its answer."""
    draws = random.Random(seed)  # noqa: S311
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        while time.monotonic() < until:
            path, body, status = request_of(draws)
            sent = asyncio.ensure_future(_post(session, f"{url}{path}", json.dumps(body).encode()))
            if draws.random() < 0.1:
                await asyncio.sleep(draws.random() / 50)
                sent.cancel()
                await asyncio.gather(sent, return_exceptions=True)
                found["gone"] += 1
                continue
            answer = await sent
            found["as expected" if answer == status else f"{answer} in place of {status}: {path}"] += 1


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
        await answer.read()
        return answer.status


def under_load(url: str, seconds: float, seed: int) -> Counter[str]:
    found: Counter[str] = Counter()

    async def all_clients() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(work(url, 1000 * seed + client, until, found) for client in range(CLIENTS)))

    asyncio.run(all_clients())
    return found


def test_memory_stays_the_same_under_load(model: Path) -> None:
    with server_process(model) as (process, port):
        watched = psutil.Process(process.pid)
        under_load(f"http://127.0.0.1:{port}", SECONDS / 3, 0)
        sizes, found = [watched.memory_info().rss / 2**20], Counter[str]()
        for part in range(1, 5):
            found += under_load(f"http://127.0.0.1:{port}", SECONDS / 6, part)
            sizes.append(watched.memory_info().rss / 2**20)
        print(f"\nMiB after the first third and each sixth: {[round(size) for size in sizes]}; {dict(found)}")
        assert set(found) == {"as expected", "gone"}
        # The text cache of the tokenizer and the allocator's arenas fill up in the first third.
        assert max(sizes[1:]) < 1.05 * sizes[0] + (10 if "CLIPS_DRILL_SERVE_SECONDS" in os.environ else 64)
        assert watched.num_threads() < 64
        assert watched.num_fds() < 64


def test_a_kill_costs_the_requests_under_way_and_a_restart_goes_on(model: Path) -> None:
    found: Counter[str] = Counter()
    good_after = [0] * CLIENTS

    async def client(number: int, killed: asyncio.Event, restarted: asyncio.Event) -> None:
        draws = random.Random(number)  # noqa: S311
        body = json.dumps({"texts": ["a red square"] * draws.randint(1, 20)}).encode()
        while good_after[number] < 20:
            try:
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
                    while good_after[number] < 20:
                        before = not killed.is_set()
                        status = await _post(session, f"http://127.0.0.1:{port}/embed/text", body)
                        found[f"status {status}"] += 1
                        good_after[number] += restarted.is_set()
                        if before and killed.is_set():
                            found["answered across the kill"] += 1
            except aiohttp.ClientError:
                found["errors" if before or killed.is_set() else "errors before the kill"] += 1
                # Refused until the restart.
                await restarted.wait()

    async def drill() -> None:
        killed, restarted = asyncio.Event(), asyncio.Event()
        clients = [asyncio.create_task(client(number, killed, restarted)) for number in range(CLIENTS)]
        await asyncio.sleep(2)
        killed.set()
        first.send_signal(signal.SIGKILL)
        first.wait(60)
        with server_process(model, "--port", str(port)) as (_, again):
            assert again == port
            restarted.set()
            await asyncio.wait_for(asyncio.gather(*clients), 120)

    with server_process(model) as (first, port):
        asyncio.run(drill())
    print(f"\n{dict(found)}")
    assert {name for name in found if name.startswith("status")} == {"status 200"}
    assert found["errors before the kill"] == 0
    # One request of each client was under way.
    assert found["errors"] <= CLIENTS


def mutated(draws: random.Random, request: bytes) -> bytes:
    """Return a request with bytes changed, removed, repeated or inserted."""
    content = bytearray(request)
    for _ in range(draws.randint(1, 8)):
        low = draws.randrange(len(content))
        high = min(len(content), low + draws.choice((1, 2, 10, 200)))
        change = draws.randrange(4)
        if change == 0:
            content[low:high] = draws.randbytes(high - low)
        elif change == 1:
            del content[low:high]
        elif change == 2:
            content[low:low] = content[low:high] * draws.choice((1, 100))
        else:
            content[low:low] = draws.choice((b"\r\n", b"\0", b"{", b"[" * 2_000, b'"', b"\xff\xfe", b"-1", b"1e999"))
        if not content:
            content = bytearray(request)
    return bytes(content)


async def _send(port: int, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_mutated_requests_never_fail_the_server(model: Path) -> None:
    draws = random.Random(19)  # noqa: S311
    bodies = [
        ("/embed/text", "application/json", json.dumps({"texts": ["a red square", "a blue circle"]}).encode()),
        ("/similarity", "application/json", json.dumps({"images": [IMAGES[0]], "texts": ["a"]}).encode()),
        ("/caption", "image/jpeg", base64.b64decode(IMAGES[1])),
        ("/embed/image", "image/png", picture("red")),
    ]
    found: Counter[str] = Counter()

    async def one(port: int, number: int, free: asyncio.Semaphore) -> None:
        path, kind, body = draws.choice(bodies)
        if number % 2:  # the body only, so that it reaches the app
            body = mutated(draws, body)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        request = request if number % 2 else mutated(draws, request)
        async with free:
            answer = await _send(port, request)
        found[answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"] += 1
        assert b"Traceback" not in answer
        assert b".py" not in answer

    async def drill(port: int) -> None:
        free = asyncio.Semaphore(16)
        cases = int(os.environ.get("CLIPS_DRILL_CASES", "600"))
        await asyncio.gather(*(one(port, number, free) for number in range(cases)))

    quick = ["--set", "header_timeout_s=2", "--set", "body_timeout_s=2"]
    with server_process(model, *quick) as (process, port):
        watched = psutil.Process(process.pid)
        asyncio.run(drill(port))
        print(f"\n{dict(found)}")
        assert not {status for status in found if status.startswith("5")}
        assert found["200"] > 0
        assert found["422"] > 0
        assert under_load(f"http://127.0.0.1:{port}", 1, 0)["as expected"] > 0
        assert watched.memory_info().rss < 2**30
