"""Kedro settings of this project."""

import os

# Set before MLflow is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's default of 7 retries takes four minutes to fail when a server does not answer; 4 take half a minute.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")

from kedro.config import OmegaConfigLoader

from clips_pipeline.hooks import ProjectHooks
from clips_pipeline.io.terminal import protect_output
from kedro_dvc_sync.hooks import DvcHooks

protect_output()

# Kedro calls hooks last to first: DvcHooks commits results before ProjectHooks reads the lineage from DVC's lock.
HOOKS = (ProjectHooks(), DvcHooks())
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # With Kedro's default, an environment that sets one key of a mapping drops its other keys.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
}
