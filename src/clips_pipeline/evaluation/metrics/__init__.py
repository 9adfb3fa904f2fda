"""Metrics as functions of embeddings, captions and labels."""

__all__ = [
    "caption_questions",
    "caption_scores",
    "compositionality",
    "linear_probe",
    "pair_files",
    "retrieval",
    "zero_shot",
]
