"""What a model makes of images and texts: embeddings, written captions, and the cache of both."""

__all__ = ["caption_decoding", "caption_examples", "embed", "embedding_cache", "image_pass", "training_retrieval"]
