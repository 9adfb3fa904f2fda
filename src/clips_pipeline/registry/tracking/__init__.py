"""MLflow runs: server, events as metrics, evaluation results, logged inputs, LoggedModels and the runs of a search."""

__all__ = [
    "code_changes",
    "data_inputs",
    "evaluation_log",
    "logged_models",
    "probe_log",
    "run_tracking",
    "runs",
    "server",
    "suite_log",
    "surroundings",
    "trial_runs",
]
