"""From prepared shards to training batches: sample order, dataset, loader and stall monitor."""

__all__ = [
    "ahead",
    "anonymous_memory",
    "batch",
    "batch_memory",
    "dataset",
    "joint_loader",
    "loader",
    "loader_worker",
    "order",
    "rank_samples",
    "stall_monitor",
]
