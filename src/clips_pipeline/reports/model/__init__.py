"""Model reports: evaluation, registered version, and comparison of two models."""

__all__ = ["comparison", "figures", "pages", "scores", "training_curves"]
