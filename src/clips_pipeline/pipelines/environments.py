"""Read the configuration of other environments than the run's own."""

from collections.abc import Mapping
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException, OmegaConfigLoader


def differences(loader: AbstractConfigLoader, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from `conf/base`, and the globals: the two files of an equivalent environment.

    Args:
        loader: config loader of the run. If it is not an OmegaConfigLoader, all parameters count as different.
        parameters: parameters of the run, including those of the command line.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {"parameters": dict(parameters), "globals": {}}
    base = loader_for(loader, loader.base_env)
    return {"parameters": _changed_values(base["parameters"], parameters), "globals": load_or_empty(loader, "globals")}


def _changed_values(base: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, value in current.items():
        if key in base and isinstance(value, Mapping) and isinstance(base[key], Mapping):
            below = _changed_values(base[key], value)
            if below:
                changed[key] = below
        elif key not in base or base[key] != value:
            changed[key] = value
    return changed


def loader_for(loader: OmegaConfigLoader, environment: str) -> OmegaConfigLoader:
    """Return a loader of the same files for another environment."""
    return OmegaConfigLoader(
        loader.conf_source,
        env=environment,
        base_env=loader.base_env,
        default_run_env=loader.default_run_env,
        config_patterns=loader.config_patterns,
    )


def load_or_empty(loader: OmegaConfigLoader, key: str) -> dict[str, Any]:
    """Return the merged content of the files of a pattern; empty where there are none."""
    try:
        return dict(loader[key])
    except MissingConfigException:
        return {}


def local_credentials(loader: AbstractConfigLoader) -> dict[str, Any]:
    """Return the content of `conf/local/credentials.yml`; empty where it is missing.

    Kedro reads that file only where no environment is named, but `--env smoke` uses the same servers.

    Args:
        loader: config loader of the run. If it is not an OmegaConfigLoader, nothing is read.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {}
    return load_or_empty(loader_for(loader, loader.default_run_env), "credentials")
