"""HTTP server for a trained model: embeddings, similarities, captions and search (`clips-pipeline serve`, docs/how-to/serve.md)."""

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
