"""MLflow runs: the server, the event log as metrics, logged inputs and LoggedModels."""

__all__ = ["data_inputs", "evaluation_log", "logged_models", "run_tracking", "runs", "server", "trial_runs"]
