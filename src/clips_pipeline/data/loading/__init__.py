"""From prepared shards to training batches: sample order, dataset, loader, and what a stalled loader waits for."""

__all__ = ["batch", "dataset", "loader", "order", "stall_monitor"]
