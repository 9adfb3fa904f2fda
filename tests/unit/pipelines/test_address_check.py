"""Secrets in the addresses of MLflow and DVC: refused where git or MLflow would keep them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from clips_pipeline.config import ConfigError
from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.io.redact import redact
from clips_pipeline.pipelines.address_check import check_addresses, load_mlflow_config
from clips_pipeline.pipelines.kedro_run import KedroRun

DATABASE = "postgresql://me:hush@db.example/runs"


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def checked(project: Path, files: dict[str, Any], env: str | None = None) -> None:
    """Check a project with these files."""
    for folder in ("base", "local", "mine"):
        (project / "conf" / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    loader = OmegaConfigLoader(
        str(project / "conf"),
        env=env,
        base_env="base",
        default_run_env="local",
        config_patterns={"mlflow": ["mlflow*"]},
        merge_strategy={"mlflow": "soft"},
    )
    context: Any = SimpleNamespace(project_path=project, env=env, config_loader=loader)
    check_addresses(context, load_mlflow_config(loader))


def server(uri: str | None) -> dict[str, Any]:
    return {"server": {"mlflow_tracking_uri": uri}}


@pytest.mark.parametrize(
    ("files", "env", "key"),
    [
        ({"conf/base/mlflow.yml": server("https://me:hush@mlflow.example")}, None, "server.mlflow_tracking_uri"),
        ({"conf/local/mlflow.yml": server("https://hush@mlflow.example")}, None, "server.mlflow_tracking_uri"),
        ({"conf/base/mlflow.yml": server(DATABASE)}, None, "server.mlflow_tracking_uri"),
        ({"conf/mine/mlflow.yml": server(DATABASE)}, "mine", "server.mlflow_tracking_uri"),
        (
            {"conf/local/mlflow.yml": {"tracking": {"experiment": {"artifact_location": "s3://KEY:hush@bucket"}}}},
            None,
            "tracking.experiment.artifact_location",
        ),
    ],
)
def test_a_secret_in_mlflow_yml_is_refused(tmp_path: Path, files: dict[str, Any], env: str | None, key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^mlflow\.yml: {key}: contains a .*MLFLOW_TRACKING_PASSWORD.*PGPASSFILE"
    ) as error:
        checked(tmp_path, files, env)
    assert "hush" not in str(error.value)


def test_a_servers_url_with_a_password_is_refused_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush@mlflow.example")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI: contains a user name or password") as error:
        checked(tmp_path, {})
    assert "hush" not in str(error.value)


def test_a_databases_url_with_a_password_may_be_where_git_does_not_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(
        tmp_path / "a", {"conf/local/mlflow.yml": server(DATABASE), "conf/base/mlflow.yml": server("sqlite:///x.db")}
    )
    checked(tmp_path / "b", {"conf/base/mlflow.yml": server("postgresql://me@db.example/runs")})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DATABASE)
    checked(tmp_path / "c", {})
    assert redact("password hush") == "password …"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "https://me:hush@host/x"),
        ("url", "s3://KEY:hu/hush@bucket"),
        ("password", "hush"),
        ("secret_access_key", "hush"),
        ("connection_string", "AccountKey=hush"),
    ],
)
def test_a_secret_in_the_committed_configuration_of_dvc_is_refused(tmp_path: Path, name: str, value: str) -> None:
    config = f"[core]\n    remote = store\n['remote \"store\"']\n    url = s3://b/x\n    {name} = {value}\n"
    with pytest.raises(ConfigError, match=r'^\.dvc/config: remote "store": .*dvc remote modify --local') as error:
        checked(tmp_path, {".dvc/config": config})
    assert "hush" not in str(error.value)


def test_private_secrets_of_dvc_are_redacted(tmp_path: Path) -> None:
    remote = "['remote \"store\"']\n    url = ssh://me@host/x\n    ask_password = true\n"
    checked(tmp_path, {".dvc/config": remote, ".dvc/config.local": "['remote \"store\"']\n    password = hush-hush\n"})
    assert redact("a hush-hush") == "a …"
    checked(tmp_path, {".dvc/config": "not a configuration [[["})


def test_storage_parameters_reach_the_nodes(tmp_path: Path) -> None:
    """Kedro passes its entries `parameters` and `params:…` to the hook, not the parameters themselves."""
    catalog = DataCatalog({"shard_cache": PathDataset(filepath=str(tmp_path), made_by="train")})
    parameters = {"storage": {"retries": 9, "allow_pipe": True}}
    credentials = {"storage": {"s3": {"secret": "hush-hush"}}}
    KedroRun().add_entries(
        catalog, {}, credentials, {"parameters": parameters, "params:storage": parameters["storage"]}
    )
    storage = catalog.load("remote_shards").storage
    assert (storage.config.retries, storage.config.allow_pipe) == (9, True)
    assert storage.identity("pipe:cat x") == "pipe:cat x"
    assert redact("a hush-hush") == "a …"
