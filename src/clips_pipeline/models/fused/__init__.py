"""The fast CPU path: fused norms, MLPs and projections on packed rows, equal to the plain blocks."""

__all__ = ["mlp", "packing", "projections", "tiling"]
