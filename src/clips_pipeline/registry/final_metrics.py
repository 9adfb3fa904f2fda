"""Numbers that a run has once: the outcome of an evaluation or of a search, at step 0."""

import time
from collections.abc import Mapping

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from clips_pipeline.registry.names import mlflow_key


def log_once(client: MlflowClient, run_id: str, metrics: Mapping[str, float], model_id: str | None = None) -> None:
    """Log what the run does not hold yet with this very value: a command that was killed and given again adds no second point.

    Args:
        client: of the tracking server.
        run_id: of the run.
        metrics: by our names.
        model_id: the LoggedModel that they are of.
    """
    held = client.get_run(run_id).data.metrics
    stamp = int(time.time() * 1000)
    points = [
        Metric(name, value, stamp, 0, model_id=model_id, run_id=run_id)
        for name, value in ((mlflow_key(key), float(value)) for key, value in metrics.items())
        if held.get(name) != value
    ]
    if points:
        client.log_batch(run_id, metrics=points)
