"""From prepared shards to training batches: sample order, dataset, loader and stall monitor."""

__all__ = ["batch", "dataset", "loader", "order", "stall_monitor"]
