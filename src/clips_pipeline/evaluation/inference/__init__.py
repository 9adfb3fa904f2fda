"""Inference: embeddings, caption decoding, and the embedding cache."""

__all__ = [
    "beam_search",
    "caption_decoding",
    "caption_examples",
    "checked_inputs",
    "embed",
    "embedding_cache",
    "image_pass",
    "training_retrieval",
]
