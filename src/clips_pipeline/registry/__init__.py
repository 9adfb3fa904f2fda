"""From an exported model to a registered MLflow version. Besides the Kedro hooks, mlflow is imported only here."""

import os

__all__ = ["config", "lineage", "tracking", "versions"]

# mlflow reads it while it is imported, so it stands before any module of this package; the user's own value wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
