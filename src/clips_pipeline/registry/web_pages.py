"""Addresses of MLflow's pages, fit to be shown: no user, no password."""

from urllib.parse import urlsplit, urlunsplit

import mlflow

# Of `mlflow ui`, where the tracking is no server that has pages.
_LOCAL_UI = "http://127.0.0.1:5000"


def web_address(tracking_uri: str) -> str | None:
    """Where a tracking server has its pages, without user and password; None where it is no server."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def how_to_open(tracking_uri: str) -> str:
    """The address of a tracking server, or the command that serves a store of another kind; a password is hidden."""
    server = web_address(tracking_uri)
    if server is not None:
        return server
    parts = urlsplit(tracking_uri)
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        tracking_uri = tracking_uri.replace(parts.netloc, f"{user.partition(':')[0]}:***@{host}", 1)
    return f".venv/bin/mlflow ui --backend-store-uri {tracking_uri} --workers 1"


def run_page(experiment: str, run_id: str) -> str:
    """Of a run."""
    return f"{_base()}/#/experiments/{experiment}/runs/{run_id}"


def version_page(model: str, version: int) -> str:
    """Of a registered version."""
    return f"{_base()}/#/models/{model}/versions/{version}"


def _base() -> str:
    return web_address(mlflow.get_tracking_uri()) or _LOCAL_UI
