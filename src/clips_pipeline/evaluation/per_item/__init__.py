"""Per-item results, the bootstrap over them, and the comparison of two models item by item."""

__all__ = ["bootstrap", "comparison", "item_table", "items"]
