"""What other environments than the one of the run hold."""

from collections.abc import Mapping
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException, OmegaConfigLoader


def differences(loader: AbstractConfigLoader, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters`, as far as they are not those of `conf/base`, and `globals`: two files of an environment like this one.

    Args:
        loader: of the run; where it is not of OmegaConf's kind, nothing is known of the base.
        parameters: of the run, those of its command line included.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {"parameters": dict(parameters), "globals": {}}
    base = loader_for(loader, loader.base_env)
    return {"parameters": _changed_values(base["parameters"], parameters), "globals": load_or_empty(loader, "globals")}


def _changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in now.items():
        if key in before and isinstance(value, Mapping) and isinstance(before[key], Mapping):
            below = _changed_values(before[key], value)
            if below:
                found[key] = below
        elif key not in before or before[key] != value:
            found[key] = value
    return found


def loader_for(loader: OmegaConfigLoader, environment: str) -> OmegaConfigLoader:
    """A loader of the same files for another environment."""
    return OmegaConfigLoader(
        loader.conf_source,
        env=environment,
        base_env=loader.base_env,
        default_run_env=loader.default_run_env,
        config_patterns=loader.config_patterns,
    )


def load_or_empty(loader: OmegaConfigLoader, key: str) -> dict[str, Any]:
    """What the files of a pattern hold; nothing where there is none."""
    try:
        return dict(loader[key])
    except MissingConfigException:
        return {}


def local_credentials(loader: AbstractConfigLoader) -> dict[str, Any]:
    """What `conf/local/credentials.yml` holds; nothing where it is missing.

    Kedro reads that file only where no environment is named, but `--env smoke` goes to the same servers.

    Args:
        loader: of the run; where it is not of OmegaConf's kind, its own environment is all there is.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {}
    return load_or_empty(loader_for(loader, loader.default_run_env), "credentials")
