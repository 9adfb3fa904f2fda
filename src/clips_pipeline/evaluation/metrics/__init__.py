"""Metrics as functions of embeddings, captions and labels."""

__all__ = ["caption_scores", "compositionality", "linear_probe", "retrieval", "zero_shot"]
