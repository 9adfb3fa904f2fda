"""Servers on loopback that tests talk to: a real S3 server, and an HTTP server that can misbehave."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class S3:
    """A running S3 server; `options` are fsspec's for it."""

    endpoint: str
    bucket: str

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        client = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return {"s3": {"key": "testing", "secret": "testing", "client_kwargs": client}}


@contextlib.contextmanager
def s3_server(bucket: str = "data", port: int = 0) -> Iterator[S3]:
    """A moto server in a thread, with one empty bucket."""
    moto_server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        yield S3(endpoint, bucket)
    finally:
        server.stop()


@dataclass
class Trouble:
    """What the HTTP server does wrong, for so many requests; then it behaves.

    Attributes:
        kind: `503`, `404`, `drop` (the connection ends in the middle of the body) or `hang`.
        times: requests that meet it; -1 for all.
        after: bytes of the body that come before it drops.
    """

    kind: str
    times: int = -1
    after: int = 100


@dataclass
class Http:
    """A running HTTP server of the files of a folder."""

    url: str
    folder: Path
    trouble: dict[str, Trouble] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def gets(self, name: str) -> int:
        return sum(request == ("GET", f"/{name}") for request in self.requests)


@contextlib.contextmanager
def http_server(folder: Path, hang_s: float = 30.0) -> Iterator[Http]:
    """An HTTP server on loopback. What is wrong with a file is said in `.trouble[name]`."""
    state = Http("", folder)
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            name = self.path.lstrip("/")
            state.requests.append((self.command, self.path))
            trouble = state.trouble.get(name)
            if trouble is not None and trouble.times != 0 and with_body:
                trouble.times -= 1
                self._misbehave(trouble, name)
                return
            file = folder / name
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def _misbehave(self, trouble: Trouble, name: str) -> None:
            if trouble.kind == "hang":
                closing.wait(hang_s)
                self.close_connection = True
            elif trouble.kind == "drop":
                content = (folder / name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: trouble.after])
                self.wfile.flush()
                self.close_connection = True
            else:
                self.send_error(int(trouble.kind))

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: Any) -> None:
            """A client that gave up is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    """Until `condition()` holds.

    Raises:
        AssertionError: it does not come to hold.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
