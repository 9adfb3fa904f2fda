"""Errors that a client sees: a status, a reason for programs, and one sentence. They name no file of the server."""

from typing import Final

from starlette.responses import JSONResponse

BUSY_RETRY_S: Final = 1
"""Seconds after which a client may try again when the server is busy."""


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        reason: short name, for programs.
        message: what is wrong, and the remedy.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.headers = status, reason, message, headers or {}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return error_response(self.status, self.reason, self.message, self.headers)


def busy(message: str) -> ApiError:
    """Return the error of a server that cannot take a request now."""
    return ApiError(503, "busy", f"{message}; try again", {"Retry-After": str(BUSY_RETRY_S)})


def error_response(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an answer with `{"error": {"reason": …, "message": …}}`."""
    return JSONResponse({"error": {"reason": reason, "message": message}}, status, headers)
