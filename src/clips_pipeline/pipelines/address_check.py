"""Refusal of secrets in `mlflow.yml`, MLFLOW_TRACKING_URI and `.dvc/config`, before MLflow or DVC reads them."""

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException, OmegaConfigLoader
from kedro.framework.context import KedroContext

from clips_pipeline.config import ConfigError, flatten
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.io.redact import remember
from clips_pipeline.pipelines.environments import loader_for

_MLFLOW_PATTERNS = ["mlflow*", "mlflow*/**", "**/mlflow*"]
_MLFLOW_REMEDY = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) in the environment. For a database set "
    "PGPASSFILE, or put its URL into MLFLOW_TRACKING_URI or conf/local/mlflow.yml"
)
_DATABASE = re.compile(r"(?:postgresql|postgres|mysql|mssql)(?:\+\w+)?://", re.IGNORECASE)
_DVC_SECRET = re.compile(
    r"password|.*secret.*|session_token|connection_string|account_key|sas_token|access_key_id|custom_auth_header",
    re.IGNORECASE,
)
_DVC_REMEDY = "write it with `dvc remote modify --local`, into .dvc/config.local, which git ignores"


def load_mlflow_config(loader: AbstractConfigLoader) -> dict[str, Any]:
    """Return the content of `mlflow.yml` as kedro-mlflow reads it; empty where there is none."""
    loader.config_patterns.setdefault("mlflow", _MLFLOW_PATTERNS)  # type: ignore[attr-defined]  # all loaders that kedro-mlflow supports have it
    try:
        found: dict[str, Any] = loader["mlflow"]
    except MissingConfigException:
        return {}
    return found


def check_addresses(context: KedroContext, mlflow_config: Mapping[str, Any]) -> None:
    """Refuse secrets in the configuration of MLflow and DVC, and remember those of `.dvc/config.local`.

    The URL of a database may contain a password where git does not see it: in MLFLOW_TRACKING_URI, or in `conf/local`.

    Args:
        context: context of the run or command.
        mlflow_config: content of `mlflow.yml`.

    Raises:
        ConfigError: a secret in an address of MLflow, or in the committed configuration of DVC. It is not shown.
    """
    _check_dvc(Path(context.project_path) / ".dvc")
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not _DATABASE.match(uri):
        refuse_secrets(uri, "MLFLOW_TRACKING_URI", _MLFLOW_REMEDY)
    for key, value in flatten(mlflow_config).items():
        try:
            refuse_secrets(value, f"mlflow.yml: {key}", _MLFLOW_REMEDY)
        except ConfigError:
            if not (isinstance(value, str) and _DATABASE.match(value) and _is_private(context, key, value)):
                raise


def _is_private(context: KedroContext, key: str, value: str) -> bool:
    """Return whether a value of `mlflow.yml` is from `conf/local`."""
    loader = context.config_loader
    if not isinstance(loader, OmegaConfigLoader) or context.env not in (None, loader.default_run_env):
        return False
    return flatten(load_mlflow_config(loader_for(loader, loader.base_env))).get(key) != value


def _check_dvc(folder: Path) -> None:
    for section, options in _read_dvc(folder / "config").items():
        for name, value in options.items():
            where = f".dvc/config: {section}: {name}"
            refuse_secrets(value, where, _DVC_REMEDY)
            if value and _DVC_SECRET.fullmatch(name):
                raise ConfigError(f"{where}: git keeps this secret; {_DVC_REMEDY}")
    remember(_read_dvc(folder / "config.local"))


def _read_dvc(file: Path) -> dict[str, dict[str, str]]:
    """Return the sections of a DVC configuration; empty for a file that is missing or that DVC will not be able to read."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {section.strip("'"): dict(parser.items(section)) for section in parser.sections()}
