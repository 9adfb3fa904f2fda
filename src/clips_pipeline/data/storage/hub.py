"""`hf://` addresses: repositories of the hub of Hugging Face, through `huggingface_hub`'s own file system.

`hf://datasets/OWNER/NAME@REVISION/FILE`; without `@REVISION`, the newest commit. The variable HF_ENDPOINT names another server,
HF_TOKEN or the options of storage `hf: {token: …}` the account.
"""

from collections.abc import Mapping
from typing import Any

PROTOCOL = "hf"

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
    return dict(options)


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
