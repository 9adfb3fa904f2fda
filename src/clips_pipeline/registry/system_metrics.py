"""MLflow's own record of what the machine does: CPU, memory, disk, network and GPUs, sampled in the process of `kedro run`."""

from collections.abc import Mapping
from typing import Any

import mlflow

from clips_pipeline.config import from_mapping
from clips_pipeline.registry.config import TrackingConfig


def configure(parameters: Mapping[str, Any]) -> None:
    """Let the next run that MLflow opens be watched, or not.

    Raises:
        ConfigError: the group `tracking` is wrong.
    """
    config = from_mapping(TrackingConfig, parameters, "tracking")
    if config.system_metrics:
        mlflow.enable_system_metrics_logging()
        mlflow.set_system_metrics_sampling_interval(config.interval_s)
    else:
        mlflow.disable_system_metrics_logging()
