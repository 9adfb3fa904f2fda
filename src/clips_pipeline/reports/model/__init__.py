"""Model reports: evaluation, registered version, and comparison of two models."""

__all__ = ["comparison", "figures", "pages", "run_comparison", "scores", "training_curves"]
