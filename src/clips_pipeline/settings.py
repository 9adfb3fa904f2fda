"""Kedro's settings for this project."""

import os

# Set before anything imports MLflow; a committed setting, not luck with the environment.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's seven take four minutes to say that a server is away; these take half a minute.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")

from kedro.config import OmegaConfigLoader

from clips_pipeline.hooks import ProjectHooks
from kedro_dvc_sync.hooks import DvcHooks

# Called last to first: results are committed to DVC before the others' lineage is read from its lock.
HOOKS = (ProjectHooks(), DvcHooks())
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # With Kedro's default an environment that sets one key of a mapping drops the others.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
}
