"""Time limits on slow connections, which uvicorn does not have: for headers, bodies and clients that take no answer.

A body that is too slow gets status 408 from `gate`; this module closes connections that the app never sees or is done with.
"""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from clips_pipeline.serving.config import ServeConfig

_GRACE_S = 5.0  # after the time for a body, for the answer that says so

_RECEIVED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class TimedProtocol(H11Protocol):
    """One connection.

    Attributes:
        limits: timeouts; `make_protocol` sets them.
    """

    limits: ClassVar[ServeConfig]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time for a header."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn says Transport
        self._wait(self.limits.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Start the time for a body after the header, and stop it after the body."""
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            if not self._in_body:
                self._in_body = True
                self._wait(self.limits.body_timeout_s + _GRACE_S)
        elif state in _RECEIVED or not self.conn.trailing_data[0]:
            # Between requests, uvicorn's own time for an idle connection counts.
            self._in_body = False
            self._wait(None)
        elif self._reading is None or self._in_body:
            self._in_body = False
            self._wait(self.limits.header_timeout_s)

    def on_response_complete(self) -> None:
        """Start the time in which the client must take the answer."""
        super().on_response_complete()
        if self._writing is not None and not self.transport.get_write_buffer_size():
            self._writing.cancel()  # the client has taken all answers before this one
            self._writing = None
        if self._writing is None and self.transport.get_write_buffer_size():
            self._writing = self.loop.call_later(self.limits.send_timeout_s, self._abort_unsent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._wait(None)
        if self._writing is not None:
            self._writing.cancel()

    def _wait(self, seconds: float | None) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _abort_unsent(self) -> None:
        self._writing = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()


def make_protocol(config: ServeConfig) -> type[TimedProtocol]:
    """Return the protocol with its limits: uvicorn makes one object for each connection, without arguments of ours."""
    return type("TimedProtocol", (TimedProtocol,), {"limits": config})
