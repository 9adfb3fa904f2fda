"""A trained model over all samples of shards or folders: embeddings, and new captions. Resumable by shard."""

__all__ = ["config", "embed", "inputs", "parts", "ranks", "recaption"]
