"""Which code, data and parameters made a model, and how to restore them."""

__all__ = ["record", "restore", "tags"]
