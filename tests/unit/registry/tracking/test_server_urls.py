"""Displayed URLs contain no password."""

import pytest

from clips_pipeline.registry.tracking.server import ui_command_or_url, web_url


def test_urls_contain_no_credentials():
    assert web_url("https://user:secret@mlflow.example:8443/base/") == "https://mlflow.example:8443/base"
    assert web_url("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    for uri in ("sqlite:///mlruns/mlflow.db", "file:///x", "databricks", "javascript://x"):
        assert web_url(uri) is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///mlruns/mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --workers 1"),
        ("postgresql://me:hush@db.example:5432/runs", "--backend-store-uri 'postgresql://…@db.example:5432/runs' "),
        ("sqlite:////home/my user/mlflow.db", "--backend-store-uri 'sqlite:////home/my user/mlflow.db' --workers 1"),
        ("postgresql://me@db.example/runs", "--backend-store-uri postgresql://me@db.example/runs "),
        ("postgresql://db.example/runs?user=me&password=hush", "--backend-store-uri 'postgresql://db.example/runs?…' "),
        ("https://me:hush@mlflow.example/base", "https://mlflow.example/base"),
        ("https://me:hu/sh@mlflow.example/base", "https://mlflow.example/base"),
        ("postgresql://me:hu/sh@db.example/runs", "--backend-store-uri 'postgresql://…@db.example/runs' "),
    ],
)
def test_stores_have_a_command_and_servers_a_url(uri, shown):
    assert shown in ui_command_or_url(uri)
    assert "hush" not in ui_command_or_url(uri)
