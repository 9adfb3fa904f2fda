"""From prepared shards to training batches: sample order, dataset, loader and stall monitor."""

__all__ = ["batch", "dataset", "loader", "order", "shared_memory", "stall_monitor"]
