"""Search: the only package that imports Optuna."""
