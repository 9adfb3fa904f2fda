"""HTTP server for a trained model: embeddings, similarities, captions and search (`clips-pipeline serve`, docs/serving.md)."""

__all__ = [
    "app",
    "batching",
    "config",
    "errors",
    "gate",
    "inference",
    "metrics",
    "neighbors",
    "pages",
    "protocol",
    "schemas",
    "server",
]
