"""Hyperparameter search with Optuna: search space, study, trial queue, one trial, storage, figures and summary."""

__all__ = ["config", "figures", "open_study", "search", "search_space", "storage", "summary", "trial", "trial_queue"]
