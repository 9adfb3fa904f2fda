"""The event log of a training: rank 0 writes it; progress, MLflow and the history table read it."""

__all__ = ["event_log", "event_logger", "history", "progress", "surroundings"]
