"""LLaVA in miniature: frozen vision towers probed with questions about the embedded scenes."""

__all__ = ["config", "features", "figure", "job", "model", "questions", "results", "run", "summary", "training"]
