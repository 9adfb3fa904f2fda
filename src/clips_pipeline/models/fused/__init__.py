"""Fused norms, MLPs and projections on packed rows: a fast CPU path with the results of the plain modules."""

__all__ = ["block", "choice", "mlp", "projections", "tiling"]
