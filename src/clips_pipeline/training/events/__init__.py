"""The event log of a training: written by rank 0, read by progress, MLflow and the history table."""

__all__ = ["event_log", "event_logger", "history", "progress"]
