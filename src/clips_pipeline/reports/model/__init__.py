"""The pages on a model: evaluation, registered version, and comparison of two."""

__all__ = ["comparison", "figures", "pages", "scores", "training_curves"]
