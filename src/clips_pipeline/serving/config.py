"""Settings of the server: limits, batching, timeouts, access."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from annotated_types import Ge, Gt, Le

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS, PILLOW_PIXELS

TOKEN_VARIABLE: Final = "CLIPS_SERVE_TOKEN"  # noqa: S105  (a name, not a token)
MIN_TOKEN: Final = 16

_MAX_TOKEN_FILE = 4096  # bytes
# What a header can hold without quoting (RFC 6750).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class ServeConfig:
    """Settings of the server.

    Attributes:
        max_items: images or texts of one request.
        max_body_bytes: bytes of the body of a request.
        max_bytes_under_way: bytes of all bodies that are held at the same time.
        max_pixels: pixels of an image, by its header.
        max_batch: images or texts of one forward pass.
        max_caption_batch: images that are captioned in one pass.
        max_delay_ms: milliseconds that an item waits for others of requests under way, so that they share a forward pass.
        max_queue: images and texts that wait or are worked on; requests that would exceed it get status 503.
        max_connections: open connections.
        max_results: results of one query of `/search`.
        header_timeout_s: seconds for a client to send the header of a request.
        body_timeout_s: seconds for a client to send the body of a request.
        send_timeout_s: seconds for a client to take an answer.
        request_timeout_s: seconds to work on a request.
        shutdown_timeout_s: seconds for requests under way after SIGTERM.
    """

    max_items: Annotated[int, Ge(1), Le(10_000)] = 256
    max_body_bytes: Annotated[int, Ge(1024), Le(2**30)] = 2**25
    max_bytes_under_way: Annotated[int, Ge(1024), Le(2**36)] = 2**28
    max_pixels: Annotated[int, Ge(1), Le(PILLOW_PIXELS)] = DEFAULT_LIMITS.max_pixels
    max_batch: Annotated[int, Ge(1), Le(10_000)] = 64
    max_caption_batch: Annotated[int, Ge(1), Le(1_000)] = 8
    max_delay_ms: Annotated[float, Ge(0), Le(1_000)] = 4.0
    max_queue: Annotated[int, Ge(1), Le(1_000_000)] = 512
    max_connections: Annotated[int, Ge(1), Le(100_000)] = 512
    max_results: Annotated[int, Ge(1), Le(10_000)] = 100
    header_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 10.0
    body_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 20.0
    send_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 30.0
    request_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 60.0
    shutdown_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 30.0

    def __post_init__(self) -> None:
        if self.max_queue < self.max_items:
            raise ConfigError(f"max_queue: {self.max_queue} is below max_items ({self.max_items}); raise it")
        if self.max_bytes_under_way < self.max_body_bytes:
            raise ConfigError(
                f"max_bytes_under_way: {self.max_bytes_under_way} is below max_body_bytes ({self.max_body_bytes}); raise it"
            )


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        token: bearer token that requests must have; None for none.
        hosts: names in the `Host` header that are answered; None for any. Without a token, a page of another site could
            otherwise reach the server under a name that it resolves to this machine (DNS rebinding).
    """

    token: str | None = None
    hosts: frozenset[str] | None = None


def make_access(host: str, token: str | None, *, open_to_all: bool = False) -> Access:
    """Return who may use a server on this address.

    Args:
        host: address that the server listens on.
        token: the token, if there is one.
        open_to_all: whether other machines may use it without a token.

    Raises:
        ConfigError: the address can be reached from other machines, there is no token, and `open_to_all` is not set.
    """
    if token is not None:
        return Access(token)
    if is_loopback(host):
        return Access(hosts=frozenset({"localhost", "127.0.0.1", "::1", host.lower()}))
    if not open_to_all:
        raise ConfigError(
            f"--host {host}: other machines can reach it, and there is no token; give --token-file or {TOKEN_VARIABLE}, "
            "or --open if everybody on that network may use it"
        )
    return Access()


def read_token(file: Path | None) -> str | None:
    """Return the token of a file, else of the environment variable `CLIPS_SERVE_TOKEN`, else None.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or has characters that a header cannot hold.
    """
    if file is not None:
        try:
            with file.open("rb") as stream:
                text = stream.read(_MAX_TOKEN_FILE).decode("utf-8", "replace").strip()
        except OSError as error:
            raise ConfigError(f"--token-file {file}: {error.strerror}; give a file with one line, the token") from None
        source = f"--token-file {file}"
    else:
        found = os.environ.get(TOKEN_VARIABLE)
        if found is None:
            return None
        text, source = found.strip(), TOKEN_VARIABLE
    if len(text) < MIN_TOKEN or _TOKEN.fullmatch(text) is None:
        # The message must not contain the token.
        raise ConfigError(
            f"{source}: a token has at least {MIN_TOKEN} letters, digits or ._~+/- and no blanks; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    return text


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
