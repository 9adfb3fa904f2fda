"""Credentials of this machine, whatever the environment."""

from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException, OmegaConfigLoader


def local_credentials(loader: AbstractConfigLoader) -> dict[str, Any]:
    """What `conf/local/credentials.yml` holds; nothing where it is missing.

    Kedro reads that file only where no environment is named, but `--env smoke` goes to the same servers.

    Args:
        loader: of the run; where it is not of OmegaConf's kind, its own environment is all there is.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {}
    local = OmegaConfigLoader(
        loader.conf_source,
        env=loader.default_run_env,
        base_env=loader.base_env,
        default_run_env=loader.default_run_env,
        config_patterns=loader.config_patterns,
    )
    try:
        found: dict[str, Any] = local["credentials"]
    except MissingConfigException:
        return {}
    return found
