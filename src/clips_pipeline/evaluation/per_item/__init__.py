"""Per-item results, the bootstrap over them, and the paired comparison of two models."""

__all__ = ["bootstrap", "comparison", "item_rows", "item_table", "items"]
