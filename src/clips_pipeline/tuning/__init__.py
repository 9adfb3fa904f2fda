"""Search: the only package that imports Optuna."""

__all__ = ["config", "figures", "open_study", "search_space", "storage", "study", "summary", "trial", "trial_queue"]
