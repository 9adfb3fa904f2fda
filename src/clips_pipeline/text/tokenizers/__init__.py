"""Tokenizers: WordPiece, CLIP's byte-pair encoding, training of a vocabulary, and their forms for other libraries."""

__all__ = ["bpe", "fast", "published", "tokenizer", "train_vocabulary", "wordpiece"]
