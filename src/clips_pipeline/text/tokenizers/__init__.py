"""Tokenizers: WordPiece, CLIP's byte pairs, and how a vocabulary is trained."""

__all__ = ["bpe", "tokenizer", "train_vocabulary", "wordpiece"]
