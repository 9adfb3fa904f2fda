"""Process of the server: the socket, uvicorn, and an orderly end."""

import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from clips_pipeline.config import ConfigError
from clips_pipeline.serving.config import ServeConfig
from clips_pipeline.serving.protocol import make_protocol

log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 2**15


def bind(host: str, port: int) -> socket.socket:
    """Return a socket on the address, which listens only when the server runs.

    Args:
        host: a name or an address.
        port: 0 takes a free one.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}; another program may use it, give another port"
        ) from None
    return found


def run(app: ASGIApp, listening: socket.socket, config: ServeConfig, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are then answered.

    Args:
        app: the app.
        listening: from `bind`.
        config: limits and timeouts.
        started: called when requests are answered.
    """
    settings = uvicorn.Config(
        app,
        http=make_protocol(config),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=config.max_connections,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_graceful_shutdown=round(config.shutdown_timeout_s),
    )
    # uvicorn raises the signal again after an orderly end; it then finds these handlers, and the process ends with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _log_signal)
    _Server(settings, started).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()


def _log_signal(number: int, frame: Any) -> None:
    log.info("ended by %s", signal.Signals(number).name)
