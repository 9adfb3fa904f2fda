"""Which tokens of a batch are computed, where they are, and which attend to which."""

__all__ = ["attention", "layout", "masks", "packing"]
