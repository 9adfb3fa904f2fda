"""What every request passes: access, the bounds on its body and its time, cancellation, metrics and headers."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clips_pipeline.serving.config import Access, ServeConfig
from clips_pipeline.serving.errors import ApiError, busy, error_response
from clips_pipeline.serving.metrics import Metrics

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset(("/", "/docs", "/openapi.json", "/healthz"))
"""Paths that need no token: they show nothing of the model or of the data."""

# Of a refused body, so many times the limit is read, and for so many seconds.
_DISCARDED, _DISCARD_S = 4, 5.0

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class _Body:
    """How much of a body was received, in bytes, and whether that is all of it."""

    held: int = 0
    complete: bool = False


class _Answer:
    """Passes on an answer, adds the headers, and notes its status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class Gate:
    """Middleware around the whole app.

    Args:
        app: the app.
        config: limits and timeouts.
        access: who may use the server.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, access: Access, metrics: Metrics) -> None:
        self._app, self._config, self._access, self._metrics = app, config, access, metrics
        self._held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the app's lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answer, body = time.monotonic(), _Answer(send), _Body()
        try:
            await self._handle(scope, receive, answer, body)
        except ApiError as error:
            if not body.complete and error.status != 408:
                await self._discard(Headers(scope=scope), receive)
            await error.response()(scope, receive, answer)
        except asyncio.CancelledError:
            if not answer.status:
                await busy("the server stops").response()(scope, receive, answer)
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not answer.status:
                await error_response(500, "internal", "an error of the server; its log says more")(
                    scope, receive, answer
                )
        finally:
            endpoint = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(endpoint, str(answer.status or "gone")).inc()
            self._metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    async def _handle(self, scope: Scope, receive: Receive, answer: _Answer, body: _Body) -> None:
        headers = Headers(scope=scope)
        self._check_access(headers, scope["path"])
        try:
            content = await self._read(headers, receive, body)
            if content is not None:
                await self._run(scope, content, receive, answer)
        finally:
            self._held -= body.held

    def _check_access(self, headers: Headers, path: str) -> None:
        hosts, token = self._access.hosts, self._access.token
        if hosts is not None and _host_name(headers.get("host", "")) not in hosts:
            raise ApiError(421, "wrong_host", "this server answers requests to its own address only")
        if token is not None and path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # As bytes: compare_digest refuses text beyond ASCII.
            same = secrets.compare_digest(given.strip().encode(), token.encode())
            if scheme.lower() != "bearer" or not same:
                raise ApiError(
                    401, "no_token", "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
                )

    async def _read(self, headers: Headers, receive: Receive, body: _Body) -> bytes | None:
        """Return the body; None if the client went away. `body` counts the bytes that `_held` includes."""
        most = self._config.max_body_bytes
        too_large = ApiError(413, "too_large", f"the body has more than {most} bytes; send fewer items in one request")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                while True:
                    message = await receive()
                    body.complete = not message.get("more_body", False)
                    if message["type"] == "http.disconnect":
                        self._metrics.canceled.inc()
                        return None
                    part = message.get("body", b"")
                    parts.append(part)
                    body.held += len(part)
                    self._held += len(part)
                    if body.held > most:
                        raise too_large
                    if self._held > self._config.max_bytes_under_way:
                        raise busy("the bodies of other requests fill the memory for them")
                    if body.complete:
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                "too_slow",
                f"the body did not arrive within {self._config.body_timeout_s:g} s",
                {"Connection": "close"},
            ) from None

    async def _discard(self, headers: Headers, receive: Receive) -> None:
        """Read what is left of a refused body: a client that sends it does not see an answer before the connection ends."""
        if "expect" in headers:  # waits for an answer before it sends
            return
        left = _DISCARDED * self._config.max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Run the app; cancel it when the client goes away or the time is over."""
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.ensure_future(_disconnect(receive))

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, replay, answer))
        try:
            await asyncio.wait(
                {work, gone}, timeout=self._config.request_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                work.result()
            elif gone.done():
                self._metrics.canceled.inc()
            elif not answer.status:
                raise busy(f"no answer within {self._config.request_timeout_s:g} s")
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


def _host_name(header: str) -> str:
    """Return the name in a `Host` header, without the port; empty if it has none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def _disconnect(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
