"""The server in a process of its own: slow clients, clients that go away, an orderly end, refusals at the start."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.served import server_process
from tests.servers import wait_for

from clips_pipeline.commands.serve import serve
from clips_pipeline.config import ConfigError
from clips_pipeline.serving.config import Access, ServeConfig, make_access, read_token

TOKEN = "a-token-for-this-test"  # noqa: S105

QUICK = [
    *("--set", "header_timeout_s=1", "--set", "body_timeout_s=1", "--set", "send_timeout_s=1"),
    *("--set", "max_delay_ms=0"),
]


@pytest.fixture(scope="module")
def port(model_folder: Path) -> Iterator[int]:
    with server_process(model_folder, *QUICK) as (process, port):
        yield port
        assert process.poll() is None


def post(port: int, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | (headers or {}))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def metric(port: int, name: str, headers: dict[str, str] | None = None) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics", headers=headers or {})
    text = connection.getresponse().read().decode()
    connection.close()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def received(port: int, sent: bytes) -> bytes:
    """Send bytes, and return what the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(65_536):
            found += part
    return found


HEAD = b"POST /embed/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


def test_clients_that_send_too_slowly_are_ended(port: int) -> None:
    assert received(port, b"") == b""
    assert received(port, b"POST /embed/text HT") == b""
    assert received(port, HEAD) == b""
    answer = received(port, HEAD + b"\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too_slow" in answer
    assert post(port, "/embed/text", {"texts": ["a"]})[0] == 200


def test_malformed_requests_end_the_connection_only(port: int) -> None:
    assert received(port, b"\x16\x03\x01\x00garbage\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert received(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000).startswith(b"HTTP/1.1 4")
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    smuggled = head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert received(port, smuggled).startswith(b"HTTP/1.1 4")
    assert post(port, "/embed/text", {"texts": ["a"]})[0] == 200


def test_a_client_sees_why_its_large_body_is_refused(port: int) -> None:
    """It sends all of it before it reads the answer, and the connection ends afterwards."""
    status, found = post(port, "/embed/text", {"texts": ["a" * 40_000_000]}, {"Connection": "close"})
    assert (status, found["error"]["reason"]) == (413, "too_large")


def test_a_client_that_goes_away_leaves_the_queue(port: int) -> None:
    before = metric(port, "clips_canceled_requests_total")
    body = json.dumps({"texts": [f"a red square {number}" for number in range(256)]}).encode()
    head = HEAD.replace(b"100", str(len(body)).encode()) + b"\r\n"

    def reset_after(sent: bytes) -> bool:
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(sent)
        time.sleep(0.05)
        # A reset, as of a client that was killed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
        return metric(port, "clips_canceled_requests_total") > before

    for _ in range(5):
        reset_after(head + body)
    # A request of which the server has seen only the header; repeated, since a reset may come before it.
    wait_for(lambda: reset_after(head + body[:100]))
    wait_for(lambda: metric(port, "clips_waiting_items") == 0)
    assert post(port, "/embed/text", {"texts": ["a"]})[0] == 200


def test_a_client_that_takes_no_answer_is_ended(port: int) -> None:
    body = json.dumps({"texts": ["a"] * 256}).encode()
    request = HEAD.replace(b"100", str(len(body)).encode()) + b"\r\n" + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))
        # More answers than the buffers of both sides hold.
        with pytest.raises(ConnectionError):
            connection.sendall(request * 100_000)
    assert post(port, "/embed/text", {"texts": ["a"]})[0] == 200


def test_a_token_is_needed_and_sigterm_answers_the_requests_under_way(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    good = {"Authorization": f"Bearer {TOKEN}"}
    with server_process(model_folder, "--token-file", str(tmp_path / "token")) as (process, port):
        assert post(port, "/embed/text", {"texts": ["a"]})[0] == 401
        assert post(port, "/embed/text", {"texts": ["a"]}, good)[0] == 200
        found: list[tuple[int, Any]] = []
        body = {"texts": [f"a red square {number}" for number in range(256)]}
        threads = [
            threading.Thread(target=lambda: found.append(post(port, "/embed/text", body, good))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        # Both requests must have arrived: a connection without one is closed. `found` is read first, so that none counts twice.
        wait_for(lambda: len(found) + metric(port, "clips_waiting_items", good) / 256 >= 2)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(60) == 0
        assert [status for status, _ in found] == [200, 200]
        with pytest.raises(OSError, match="refused"):
            post(port, "/embed/text", {"texts": ["a"]})


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(serve, arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_one_line_says_why_the_server_does_not_start(model_folder: Path) -> None:
    folder = str(model_folder)
    assert "other machines can reach it, and there is no token" in refusal(folder, "--host", "0.0.0.0")  # noqa: S104
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in refusal(folder, "--port", str(taken.getsockname()[1]))
    assert "--set.max_itms: unknown key; did you mean 'max_items'" in refusal(folder, "--set", "max_itms=3")
    assert "--set.max_items" in refusal(folder, "--set", "max_items=0")
    assert "--set max_items=[: the value cannot be read" in refusal(folder, "--set", "max_items=[")
    assert "device: 'nowhere' cannot be used" in refusal(folder, "--port", "0", "--device", "nowhere")
    assert "nowhere/config.json: no such file" in refusal("nowhere", "--port", "0")


def test_who_may_use_the_server() -> None:
    assert make_access("127.0.0.1", None).hosts == {"localhost", "127.0.0.1", "::1"}
    assert make_access("::1", TOKEN) == Access(TOKEN)
    assert make_access("0.0.0.0", TOKEN) == Access(TOKEN)  # noqa: S104
    assert make_access("0.0.0.0", None, open_to_all=True) == Access()  # noqa: S104
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):  # noqa: S104
        with pytest.raises(ConfigError, match="there is no token"):
            make_access(host, None)


def test_tokens_that_cannot_protect_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPS_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("CLIPS_SERVE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    for content in ("", "short", "with blanks in the middle", "é" * 20):
        (tmp_path / "token").write_text(content)
        with pytest.raises(ConfigError, match="a token has at least 16") as caught:
            read_token(tmp_path / "token")
        assert not content or content not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_queue": 10}, "max_queue: 10 is below max_items"), ({"max_bytes_under_way": 2048}, "below max_body_bytes")],
)
def test_settings_that_contradict_each_other(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**settings)
