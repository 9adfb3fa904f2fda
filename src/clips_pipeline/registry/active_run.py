"""The MLflow run that Kedro opened. A file of its own, so that a stage which logs to it does not depend on trials or training."""

import mlflow


def active_run_id() -> str | None:
    """Its id, None where there is none."""
    active = mlflow.active_run()
    return active.info.run_id if active else None
