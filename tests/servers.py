"""Servers on loopback for tests: real S3 and PostgreSQL servers, and an HTTP server with configurable faults."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
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


def free_port() -> int:
    """Return a free port of this machine, for a server that needs one in advance."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class S3Server:
    """An S3 server in this process; its content survives a restart of the server.

    Attributes:
        endpoint: URL of the server; unchanged by a restart.
        bucket: an existing bucket.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket, self._port = bucket, 0
        self.start()
        self.endpoint = f"http://127.0.0.1:{self._port}"

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """Return the options of fsspec for this server."""
        client = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return {"s3": {"key": "testing", "secret": "testing", "client_kwargs": client}}

    def start(self) -> None:
        moto_server = pytest.importorskip("moto.server")
        self._server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Stop the server: connections are refused."""
        listening = self._server._server
        self._server.stop()
        listening.server_close()


@contextlib.contextmanager
def s3_server(bucket: str = "data") -> Iterator[S3Server]:
    """Run a moto server in a thread, with one empty bucket."""
    boto3 = pytest.importorskip("boto3")
    s3 = S3Server(bucket)
    try:
        client = boto3.client(
            "s3",
            endpoint_url=s3.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        yield s3
    finally:
        s3.stop()


@dataclass
class Fault:
    """A fault of the HTTP server for a number of requests.

    Attributes:
        kind: a status such as `503`; `drop` (the connection ends within the body); `short` (the response ends there and
            announces the short length); or `hang`.
        times: number of requests that fail; -1 for all.
        after: bytes of the body before it drops or ends.
    """

    kind: str
    times: int = -1
    after: int = 100


@dataclass
class HttpServer:
    """A running HTTP server for the files of a folder. For `s3://FOLDER/FILE` it is a read-only S3 server.

    Attributes:
        url: URL without a trailing slash.
        folder: the folder.
        ranges: whether it supports range requests.
        faults: faults by path of the file.
        requests: method and path of every request so far.
    """

    url: str
    folder: Path
    ranges: bool = True
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def gets(self, name: str) -> int:
        return sum(request == ("GET", f"/{name}") for request in self.requests)


@contextlib.contextmanager
def http_server(folder: Path, hang_s: float = 30.0) -> Iterator[HttpServer]:
    """Run an HTTP server on loopback; set `.faults[name]` for a fault of a file."""
    state = HttpServer("", folder)
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
            faults = state.faults.get(name)
            kind = ""
            if faults is not None and faults.times != 0 and with_body:
                faults.times -= 1
                kind = faults.kind
            if kind == "hang":
                closing.wait(hang_s)
                self.close_connection = True
            elif kind.isdigit() or not (folder / name).is_file():
                self.send_error(int(kind or 404))
            else:
                content = self._head(name, faults.after if faults is not None and kind == "short" else None)
                if kind == "drop" and faults is not None:
                    content = content[: faults.after]
                    self.close_connection = True
                if with_body:
                    self.wfile.write(content)
                    self.wfile.flush()

        def _head(self, name: str, length: int | None) -> bytes:
            """Write status and headers; return the corresponding bytes."""
            content = (folder / name).read_bytes()
            part = content[:length]
            byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if byte_range and state.ranges:
                begin, end = int(byte_range[1]), min(int(byte_range[2] or len(content)), len(content) - 1)
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
            """Ignore clients that closed the connection."""

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
    """Wait until `condition()` holds.

    Raises:
        AssertionError: the condition does not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def postgresql_server(folder: Path, password: str = "testing") -> Iterator[str]:  # noqa: S107  # the server is on loopback
    """Run a PostgreSQL server on loopback and yield the URL of an empty database; the server stops afterwards.

    Skips the test if the server's programs are not installed.
    """
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, postgres) are not installed; `apt-get install postgresql`")
    # The server refuses to run as root. On Debian, `runuser` may not be on a short PATH.
    runuser = shutil.which("runuser", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
    other = [runuser or "runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    data = Path(tempfile.mkdtemp(prefix="clips-pg-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        if other:
            shutil.chown(data, "nobody")
        secret = data / "secret"
        secret.write_text(password)
        if other:
            shutil.chown(secret, "nobody")
        make = ["initdb", "-D", str(data / "db"), "-U", "clips", "-A", "scram-sha-256", f"--pwfile={secret}", "-N"]
        subprocess.run([*other, str(programs / make[0]), *make[1:]], check=True, capture_output=True, cwd="/")
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "fsync=off"]
        command = [str(programs / "postgres"), "-D", str(data / "db"), "-k", str(data), *settings]
        with (folder / "postgres.log").open("wb") as output:
            server = subprocess.Popen([*other, *command], stdout=output, stderr=output, cwd="/")
        try:
            wait_for(lambda: _accepts_connections(port, password) or server.poll() is not None, 60.0)
            assert server.poll() is None, (folder / "postgres.log").read_text()
            yield f"postgresql://clips:{password}@127.0.0.1:{port}/postgres"
        finally:
            # runuser forwards SIGTERM; the server then refuses new clients and waits for none.
            server.send_signal(signal.SIGINT if not other else signal.SIGTERM)
            server.wait(30)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _postgresql_programs() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for folder in [*versions, *(Path(found).parent for found in [shutil.which("initdb")] if found)]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _accepts_connections(port: int, password: str) -> bool:
    psycopg = pytest.importorskip("psycopg")
    try:
        psycopg.connect(f"postgresql://clips:{password}@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
