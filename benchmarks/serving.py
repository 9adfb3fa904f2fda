"""Latency and throughput of the server beside MLflow's own scoring server, over the same model and requests.

    python -m benchmarks.serving MODEL [--clients 1 8 64] [--seconds 10] [--kinds text image] [--json]

MODEL is a model folder. Each client sends one request after the other, with one text, or with one JPEG of 256 px in
base64. Both servers run at the same time, so that both have the same machine, but only one has load at a time; rounds
alternate, and ratios are medians over rounds. `cpu ms` is the server's own time for a request, which depends least on
what else the machine does. `failed` counts requests without an embedding.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROUNDS = 3
NAMES = ("p50_ms", "p99_ms", "per_s", "cpu_ms")


def free_port() -> int:
    """Return a free port."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextmanager
def process(command: list[str], health: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; wait until it answers."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        try:
            wait(health, started)
            yield started
        finally:
            started.terminate()
            started.wait(60)


def wait(url: str, started: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    """Wait until a URL answers."""
    from urllib.error import URLError
    from urllib.request import urlopen

    until = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=5).close()  # noqa: S310  # loopback
            return
        except (URLError, OSError):
            if started.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextmanager
def ours(model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run our server."""
    port = free_port()
    command = [sys.executable, "-m", "clips_pipeline", "serve", str(model), "--port", str(port)]
    with process(command, f"http://127.0.0.1:{port}/healthz") as started:
        yield started, f"http://127.0.0.1:{port}"


@contextmanager
def mlflow_server(model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Package the model and run MLflow's server: the app that `mlflow models serve --env-manager local` runs."""
    from mlflow.pyfunc.scoring_server import get_cmd

    from clips_pipeline.registry.versions.packaging import save_package

    with tempfile.TemporaryDirectory() as folder:
        save_package(model, Path(folder) / "model")
        port = free_port()
        command, env = get_cmd(f"{folder}/model", port=port, host="127.0.0.1")
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in our command
        with process([sys.executable, "-m", *command.split()], f"http://127.0.0.1:{port}/ping", env) as started:
            yield started, f"http://127.0.0.1:{port}"


def bodies(kind: str, side: str, count: int = 32) -> tuple[str, list[bytes]]:
    """Return the path and the bodies of requests."""
    values = [f"a {number} red squares on a blue table beside a lamp" for number in range(count)]
    if kind == "image":
        values = [base64.b64encode(jpeg(number)).decode() for number in range(count)]
    if side == "ours":
        field = {"text": "texts", "image": "images"}[kind]
        return f"/embed/{kind}", [json.dumps({field: [value]}).encode() for value in values]
    return "/invocations", [
        json.dumps({"dataframe_split": {"columns": [kind], "data": [[value]]}}).encode() for value in values
    ]


def jpeg(number: int) -> bytes:
    """Return a picture with some detail."""
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


async def load(url: str, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Return milliseconds (p50, p99), requests per second, and the number of failures."""
    times: list[float] = []
    failed = 0
    until = time.monotonic() + seconds
    headers = {"Content-Type": "application/json"}

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal failed
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                async with session.post(url, data=requests[number % len(requests)], headers=headers) as answer:
                    content = await answer.read()
                    good = answer.status == 200 and b'"embedding' in content
            except aiohttp.ClientError:
                good = False
            times.append(time.monotonic() - began)
            failed += not good
            number += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        began = time.monotonic()
        await asyncio.gather(*(client(session, number) for number in range(clients)))
        took = time.monotonic() - began
    times.sort()
    return {
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[min(len(times) - 1, int(0.99 * len(times)))],
        "per_s": len(times) / took,
        "count": len(times),
        "failed": failed,
    }


def cpu_seconds(server: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of a server and its children."""
    import psutil

    found = psutil.Process(server.pid)
    times = [one.cpu_times() for one in (found, *found.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measure(
    servers: dict[str, tuple[subprocess.Popen[bytes], str]], kind: str, clients: int, seconds: float
) -> dict[str, Any]:
    """Return medians over rounds for each side, and those of the ratios within a round."""
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(ROUNDS + 1):
        found = {}
        for side, (server, url) in servers.items():
            path, requests = bodies(kind, side)
            # The first round warms up.
            duration = seconds / ROUNDS if number else 1.0
            before = cpu_seconds(server)
            found[side] = asyncio.run(load(f"{url}{path}", requests, clients, duration))
            found[side]["cpu_ms"] = 1000 * (cpu_seconds(server) - before) / found[side]["count"]
        if number:
            rounds.append(found)
    row: dict[str, Any] = {"kind": kind, "clients": clients}
    for side in servers:
        row[side] = {name: statistics.median(one[side][name] for one in rounds) for name in NAMES}
        row[side]["failed"] = sum(one[side]["failed"] for one in rounds)
    for name in NAMES:
        row[f"{name}_ratio"] = statistics.median(one["ours"][name] / one["mlflow"][name] for one in rounds)
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--kinds", nargs="+", default=["text", "image"], choices=["text", "image"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of load on each side, for each row")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with ours(arguments.model) as our_server, mlflow_server(arguments.model) as their_server:
        servers = {"ours": our_server, "mlflow": their_server}
        rows = [
            measure(servers, kind, clients, arguments.seconds)
            for kind in arguments.kinds
            for clients in arguments.clients
        ]
    if arguments.json:
        print(json.dumps({"load": before, "cpus": os.cpu_count(), "rows": rows}, indent=1))
        return
    print(f"load {before:.1f} on {os.cpu_count()} cores; ratio: ours / MLflow's, in the same round")
    print(f"{'':6}{'clients':>8}{'p50 ms':>20}{'p99 ms':>20}{'requests/s':>20}{'cpu ms':>20}{'failed':>10}")
    for row in rows:
        cells = [f"{row['ours'][name]:.0f} / {row['mlflow'][name]:.0f} ({row[f'{name}_ratio']:.2f})" for name in NAMES]
        cells.append(f"{row['ours']['failed']:.0f} / {row['mlflow']['failed']:.0f}")
        print(f"{row['kind']:6}{row['clients']:>8}", *(f"{cell:>19}" for cell in cells))


if __name__ == "__main__":
    main()
