"""Models in MLflow: tracking of runs, registered versions and their gate, and the lineage of a version.

Only this package and the Kedro hooks import mlflow.
"""

import os

__all__ = ["config", "differences", "lineage", "tracking", "versions"]

# mlflow reads this on import, so it must be set before any module of this package imports it. A user's own value wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
