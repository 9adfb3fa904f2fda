"""Servers on loopback that tests talk to: a real S3 server, and an HTTP server that can misbehave."""

import contextlib
import re
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
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
        kind: a status such as `503`; `drop` (the connection ends in the middle of the body); `short` (it ends there as
            if that were all); or `hang`.
        times: requests that meet it; -1 for all.
        after: bytes of the body that come before it drops or ends.
    """

    kind: str
    times: int = -1
    after: int = 100


@dataclass
class Http:
    """A running HTTP server of the files of a folder. To `s3://FOLDER/FILE` it is an S3 server that can only read.

    Attributes:
        url: without a slash at its end.
        folder: what it serves.
        ranges: whether it gives parts of files.
        trouble: what is wrong with a file, by its path.
        requests: method and path of every request so far.
    """

    url: str
    folder: Path
    ranges: bool = True
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
            kind = ""
            if trouble is not None and trouble.times != 0 and with_body:
                trouble.times -= 1
                kind = trouble.kind
            if kind == "hang":
                closing.wait(hang_s)
                self.close_connection = True
            elif kind.isdigit() or not (folder / name).is_file():
                self.send_error(int(kind or 404))
            else:
                content = self._head(name, trouble.after if trouble is not None and kind == "short" else None)
                if kind == "drop" and trouble is not None:
                    content = content[: trouble.after]
                    self.close_connection = True
                if with_body:
                    self.wfile.write(content)
                    self.wfile.flush()

        def _head(self, name: str, length: int | None) -> bytes:
            """Status and headers; returns the bytes that belong to them."""
            content = (folder / name).read_bytes()
            part = content[:length]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and state.ranges:
                begin, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                part = content[begin : end + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{zlib.crc32(content)}"')
            self.send_header("Last-Modified", formatdate((folder / name).stat().st_mtime, usegmt=True))
            self.end_headers()
            return part

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
