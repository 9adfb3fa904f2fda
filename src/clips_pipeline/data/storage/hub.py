"""`hf://` addresses: repositories of the hub of Hugging Face, through `huggingface_hub`'s own file system.

`hf://datasets/OWNER/NAME@REVISION/FILE`; without `@REVISION`, the newest commit. The variable HF_ENDPOINT names another server,
HF_TOKEN or the options of storage `hf: {token: …}` the account.
"""

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

PROTOCOL = "hf"

_setting_client = threading.Lock()

_TOKEN = "a token with read access as storage `hf: {token: …}` in conf/local/credentials.yml, or in HF_TOKEN"  # noqa: S105


def hub_options(options: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the options of the file system, and set its timeouts, which only exist for the whole process.

    Args:
        options: options of fsspec for `hf`, such as `token`, `endpoint` and `expand_info`.
        timeout_s: seconds without a byte after which a request fails.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = timeout_s  # type: ignore[assignment]
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()  # many files in many processes
    # Setting the client closes the one before, with which another thread may wait for an answer.
    with _setting_client:
        _limit_waiting()
    return dict(options)


@cache
def _limit_waiting() -> None:
    """Let `call_with_retries` decide how long to wait for a hub that does not answer.

    `huggingface_hub` waits forever for a list of files, and asks for a part of a file six times before it gives up.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def make_client() -> Any:
        client: Any = default_client_factory()
        send = client.send

        def send_in_time(request: Any, **arguments: Any) -> Any:
            # Not an upload, after which the hub may take its time.
            if request.method in ("GET", "HEAD") or "/paths-info/" in request.url.path:
                seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
                request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
            try:
                return send(request, **arguments)
            except Exception as error:
                # By name: the HTTP client has another one in each version of `huggingface_hub`.
                if "TransportError" not in {kind.__name__ for kind in type(error).__mro__}:
                    raise
                raise ConnectionError(f"no answer ({type(error).__name__}: {error})") from error

        client.send = send_in_time
        return client

    set_client_factory(make_client)


def find_refusal(error: BaseException) -> str | None:
    """Return why the hub refuses and what to do about it; None for another error.

    `huggingface_hub` reports a missing repository or revision as a missing file, which would hide the reason.
    """
    cause: BaseException | None = error
    while cause is not None:
        names = {kind.__name__ for kind in type(cause).__mro__}
        status = http_status(cause)
        if "GatedRepoError" in names:
            return (
                f"the hub refuses access ({status}); accept the conditions on the page of the repository, and give that "
                f"account's token: {_TOKEN}"
            )
        if "RepositoryNotFoundError" in names:
            return (
                f"the hub has no such repository, or a private one ({status}); correct the address "
                f"(hf://datasets/OWNER/NAME/FILE for a data set), or give {_TOKEN}"
            )
        if "RevisionNotFoundError" in names:
            return f"the hub has no such revision ({status}); give a branch, tag or commit of the repository after `@`"
        if "HfHubHTTPError" in names and status in (401, 403):
            what = "does not accept the token" if status == 401 else "refuses access"
            return f"the hub {what} ({status}); give {_TOKEN}"
        cause = cause.__cause__
    return None


def http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error of aiohttp (`status`) or of httpx and `huggingface_hub` (`response`)."""
    status = getattr(error, "status", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
