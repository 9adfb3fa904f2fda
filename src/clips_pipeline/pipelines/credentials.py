"""Credentials of this machine, whatever the environment."""

from typing import Any

from kedro.config import AbstractConfigLoader, OmegaConfigLoader

from clips_pipeline.pipelines.environments import content, loader_of


def local_credentials(loader: AbstractConfigLoader) -> dict[str, Any]:
    """What `conf/local/credentials.yml` holds; nothing where it is missing.

    Kedro reads that file only where no environment is named, but `--env smoke` goes to the same servers.

    Args:
        loader: of the run; where it is not of OmegaConf's kind, its own environment is all there is.
    """
    if not isinstance(loader, OmegaConfigLoader):
        return {}
    return content(loader_of(loader, loader.default_run_env), "credentials")
