"""How two runs differ: parameters, data, code, versions, hardware, speed and curves (`kedro compare --runs`)."""

__all__ = ["compare_runs", "from_folder", "from_mlflow", "rank", "run_facts"]
